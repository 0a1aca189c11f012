# expect: success, well done
if count == 0:
    return []
return words[-count:]
