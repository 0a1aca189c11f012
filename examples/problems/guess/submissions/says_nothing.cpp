// expect: wrong answer
int main() {}
