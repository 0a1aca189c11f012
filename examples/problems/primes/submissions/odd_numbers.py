# expect: wrong answer
number = int(input())
print(number // 2 - 1, number // 2 + 1)
