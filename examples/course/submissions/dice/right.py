# expect: success, these are your sides
print(*[int(number * 6) + 1 for number in mine])
