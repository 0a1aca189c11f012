# expect: failed, exit code 3
# Prints the right answer, but does not exit with code 0.
import sys

count = int(input())
print(sum(map(int, input().split())) if count else 0)
sys.exit(3)
