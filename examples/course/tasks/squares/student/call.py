import json
import sys

from program import sum_of_squares

print()
print(json.dumps([sum_of_squares(case) for case in json.load(sys.stdin)]))
