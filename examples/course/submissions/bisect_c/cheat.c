// expect: failed, it does not compile
// a compiler's complaint about a file shows what is in it, where there is such a file
#include "/task/run"
int main(void) { return 0; }
