# expect: timeout, too long
while len(words) > 0:
    count += 1
