# expect: failed, these are not
print(*[round(number * 6) for number in mine])
