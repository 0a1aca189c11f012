# expect: time limit
import time

input()
time.sleep(60)
