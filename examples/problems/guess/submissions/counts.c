// expect: wrong answer
#include <stdio.h>

int main(void) {
    char said = ' ';
    for (int guess = 1; said != '='; guess++) {
        printf("%d\n", guess);
        fflush(stdout);
        if (scanf(" %c", &said) != 1)
            return 1;
    }
}
