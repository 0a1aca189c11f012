# expect: accepted
low, high = 1, 1000
while True:
    guess = (low + high) // 2
    print(guess, flush=True)
    said = input()
    if said == "=":
        break
    low, high = (low, guess - 1) if said == "<" else (guess + 1, high)
