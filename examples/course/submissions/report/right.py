# expect: success, the report is right
# archive: report.csv
import collections
import sys

with open("report.csv", "w") as report:
    for word, count in sorted(collections.Counter(sys.stdin.read().split()).items()):
        print(word, count, sep=",", file=report)
