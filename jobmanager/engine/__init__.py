"""Container engines behind one protocol; labels, leftovers and PID 1 are the same for all of them."""
