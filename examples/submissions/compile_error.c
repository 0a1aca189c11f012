// expect: failed, error: expected
// A semicolon is missing.
#include <stdio.h>

int main(void) {
    printf("6\n")
    return 0;
}
