// expect: success
#include <stdio.h>

int main(void) {
    int count;
    long long number, sum = 0;
    scanf("%d", &count);
    while (count-- > 0 && scanf("%lld", &number) == 1)
        sum += number;
    printf("%lld\n", sum);
    return 0;
}
