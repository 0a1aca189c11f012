# expect: run-time error
print(500, flush=True)
if input() != "=":
    raise SystemExit("it is another one")
