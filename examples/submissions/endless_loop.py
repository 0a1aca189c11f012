# expect: timeout
count = int(input())
while count >= 0:
    pass
