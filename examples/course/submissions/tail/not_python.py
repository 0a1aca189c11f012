# expect: failed, not the words
give the last words please
