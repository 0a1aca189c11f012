# expect: time limit
number = int(input())
primes = [n for n in range(2, number) if sum(n % factor == 0 for factor in range(2, n)) == 0]
print(*next((a, b) for a in reversed(primes) for b in primes if a + b == number))
