// expect: accepted
#include <iostream>

int main() {
    int low = 1, high = 1000;
    for (char said = ' '; said != '=';) {
        int guess = (low + high) / 2;
        std::cout << guess << std::endl;
        std::cin >> said;
        (said == '<' ? high : low) = said == '<' ? guess - 1 : guess + 1;
    }
}
