# expect: success
count = int(input())
print(sum(map(int, input().split())) if count else 0)
