# expect: overflow, memory
hoard = []
while True:
    hoard.append(b"x" * 2**20)
