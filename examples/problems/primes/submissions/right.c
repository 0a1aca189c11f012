// expect: accepted
#include <stdio.h>

static int prime(int n) {
    for (int factor = 2; factor * factor <= n; factor++)
        if (n % factor == 0)
            return 0;
    return n > 1;
}

int main(void) {
    int number;
    scanf("%d", &number);
    for (int first = number - 2; first > 1; first--)
        if (prime(first) && prime(number - first)) {
            printf("%d\n%d\n", first, number - first);
            return 0;
        }
    return 1;
}
