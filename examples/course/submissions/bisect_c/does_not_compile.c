// expect: failed, it does not compile
int main(void) { return missing; }
