"""Knows the number, and answers ten guesses. Exit codes as of testlib: 0 right, 1 wrong, 2 not even the right form."""

import os
import sys
from pathlib import Path

number = int(Path(sys.argv[1]).read_text())
for _ in range(10):
    try:
        guess = int(sys.stdin.readline(20))
    except ValueError:
        print("a guess must be a number", file=sys.stderr)
        sys.exit(2)
    if guess == number:
        try:
            print("=", flush=True)
        finally:
            os._exit(0)  # it is right, also if the submission has left with its last guess
    print("<" if number < guess else ">", flush=True)
print("ten guesses were not enough", file=sys.stderr)
sys.exit(1)
