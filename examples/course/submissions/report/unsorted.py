# expect: failed, the report is wrong
# archive: report.csv
import sys

words = sys.stdin.read().split()
with open("report.csv", "w") as report:
    for word in dict.fromkeys(words):
        print(word, words.count(word), sep=",", file=report)
