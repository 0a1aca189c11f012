// expect: failed, it does not compile
// the compiler's error message would show the file's content, if the file were there
#include "/task/run"
int main(void) { return 0; }
