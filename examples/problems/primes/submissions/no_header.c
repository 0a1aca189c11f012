// expect: compile error
int main(void) { printf("%d %d\n", 2, 2) }
