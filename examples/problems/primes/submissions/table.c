// expect: memory limit
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    int number;
    scanf("%d", &number);
    char *table = malloc(1L << 30);
    memset(table, 1, 1L << 30);
    printf("%d %d\n", 2, number - 2 + table[number] - 1);
}
