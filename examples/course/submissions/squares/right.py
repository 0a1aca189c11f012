# expect: success, 5 of 5 lists
# answer growth: 1
def sum_of_squares(numbers):
    return sum(number * number for number in numbers)
