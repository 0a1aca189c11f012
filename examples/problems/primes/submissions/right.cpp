// expect: accepted
#include <iostream>

static bool prime(int n) {
    for (int factor = 2; factor * factor <= n; factor++)
        if (n % factor == 0)
            return false;
    return n > 1;
}

int main() {
    int number, first = 2;
    std::cin >> number;
    while (!prime(first) || !prime(number - first))
        first++;
    std::cout << first << ' ' << number - first << '\n';
}
