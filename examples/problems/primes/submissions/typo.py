# expect: compile error
print("2 2"
