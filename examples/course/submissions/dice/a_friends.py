# expect: failed, these are not
print(2, 5)
