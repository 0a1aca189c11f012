# expect: overflow, output
while True:
    print("6" * 1000)
