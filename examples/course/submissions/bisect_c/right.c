// expect: success, right for all numbers
#include <stdio.h>

int main(void) {
    unsigned long long number, low = 0, high = 1000000001;
    if (scanf("%llu", &number) != 1) return 1;
    while (high - low > 1) {
        unsigned long long middle = (low + high) / 2;
        if (middle * middle <= number) low = middle; else high = middle;
    }
    printf("%llu\n", low);
    return 0;
}
