"""Says whether a guess is too low, too high or right. Its exit code decides: 0 is right, 1 wrong."""

import os
import sys
from pathlib import Path


def main() -> int:
    number = int(Path(sys.argv[1]).read_text())
    for _ in range(7):
        line = sys.stdin.readline(100)
        if not line.strip().isdecimal():
            return wrong(f"no guess: {line[:20]!r}")
        guess = int(line)
        if guess == number:
            say("right")
            return 0
        say("low" if guess < number else "high")
    return wrong("seven tries were not enough")


def say(word: str) -> None:
    try:
        print(word, flush=True)
    except BrokenPipeError:  # the submission has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def wrong(why: str) -> int:
    print(why, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
