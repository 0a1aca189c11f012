# expect: failed, not the words
return words[-count:]
