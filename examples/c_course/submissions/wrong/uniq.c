// expect: failed, phase 'test': 2 of 3 tests passed
#include <stdio.h>
#include <string.h>

int main(void)
{
    static char line[4096], last[4096];

    while (fgets(line, sizeof line, stdin)) {
        if (strcmp(line, last) != 0)
            fputs(line, stdout);
        strcpy(last, line);
    }
    return 0;
}
