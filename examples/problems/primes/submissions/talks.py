# expect: wrong answer
print("The two primes are", 2, int(input()) - 2)
