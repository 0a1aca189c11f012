// expect: failed, phase 'build': exit code 2
#include <stdio.h>

int main(void)
{
    puts("I forgot something")
    return 0;
}
