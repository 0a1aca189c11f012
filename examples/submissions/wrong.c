// expect: failed, wrong answer
// The sum does not fit an int.
#include <stdio.h>

int main(void) {
    int count, number, sum = 0;
    scanf("%d", &count);
    while (count-- > 0 && scanf("%d", &number) == 1)
        sum += number;
    printf("%d\n", sum);
    return 0;
}
