# expect: timeout, 0 of 5 lists
# answer growth: 1
def sum_of_squares(numbers):
    while True:
        pass
