// expect: success, 3 of 3 tests passed
#include <stdio.h>
#include <string.h>

static int counts;

static void show(const char *line, int times)
{
    if (times > 0 && counts)
        printf("%d ", times);
    if (times > 0)
        fputs(line, stdout);
}

int main(int argc, char **argv)
{
    static char line[4096], last[4096];
    int times = 0;

    counts = argc > 1 && strcmp(argv[1], "-c") == 0;
    while (fgets(line, sizeof line, stdin)) {
        if (times > 0 && strcmp(line, last) != 0) {
            show(last, times);
            times = 0;
        }
        strcpy(last, line);
        times++;
    }
    show(last, times);
    return 0;
}
