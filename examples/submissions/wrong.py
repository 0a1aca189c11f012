# expect: failed, wrong answer
# Forgets the last number.
count = int(input())
print(sum(map(int, input().split()[: count - 1])))
