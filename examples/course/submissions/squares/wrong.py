# expect: failed, 2 of 5 lists
# answer growth: 1
def sum_of_squares(numbers):
    return sum(numbers) ** 2 if len(numbers) < 2 else 0
