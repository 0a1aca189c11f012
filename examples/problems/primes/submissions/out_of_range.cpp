// expect: run-time error
#include <vector>

int main() {
    return std::vector<int>().at(3);
}
