// expect: failed, wrong for [1000000000000, 999999999999999999]
#include <stdio.h>

int main(void) {
    int number, root = 0;
    if (scanf("%d", &number) != 1) return 1;
    while ((root + 1) * (root + 1) <= number) root++;
    printf("%d\n", root);
    return 0;
}
