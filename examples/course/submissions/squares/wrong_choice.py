# expect: failed, Each number is looked at once.
# answer growth: 2
def sum_of_squares(numbers):
    return sum(number**2 for number in numbers)
