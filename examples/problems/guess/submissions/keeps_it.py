# expect: time limit
print(500)  # without flush=True: nobody hears it
while input() != "=":
    pass
