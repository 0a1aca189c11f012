"""Programs in C that several tests have built in a container."""

RECURSION = """
#include <stdio.h>
#include <stdlib.h>
static int deeper(int left) {
    volatile char frame[1024];
    frame[0] = (char)left;
    return left ? deeper(left - 1) + frame[0] : 0;
}
int main(int argc, char **argv) {
    deeper(atoi(argv[1]));
    puts("came back");
}
"""
