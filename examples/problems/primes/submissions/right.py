# expect: accepted
number = int(input())
primes = [n for n in range(2, number) if all(n % factor for factor in range(2, int(n**0.5) + 1))]
known = set(primes)
first = next(n for n in primes if number - n in known)
print(first, number - first)
