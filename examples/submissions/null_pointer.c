// expect: failed, killed by SIGSEGV
// Allocates no memory.
#include <stdio.h>

int main(void) {
    int count;
    long long *numbers = NULL, sum = 0;
    scanf("%d", &count);
    for (int i = 0; i < count; i++) {
        scanf("%lld", &numbers[i]);
        sum += numbers[i];
    }
    printf("%lld\n", sum);
    return 0;
}
