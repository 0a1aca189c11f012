"""Any two primes with the right sum will do. Exit codes as of testlib: 0 right, 1 wrong, 2 not even the right form."""

import sys
from pathlib import Path


def is_prime(number):
    return number > 1 and all(number % factor for factor in range(2, int(number**0.5) + 1))


wanted, printed = (Path(path).read_text() for path in sys.argv[1:3])
try:
    first, second = map(int, printed.split())
except ValueError:
    print("there must be two numbers", file=sys.stderr)
    sys.exit(2)
if first + second != int(wanted) or not (is_prime(first) and is_prime(second)):
    print("these are not two primes with that sum", file=sys.stderr)
    sys.exit(1)
