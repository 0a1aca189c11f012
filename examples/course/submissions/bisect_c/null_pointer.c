// expect: failed, exit codes [139]
int main(void) { return *(volatile int *)0; }
