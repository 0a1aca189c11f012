"""Container engines behind one protocol; labels, orphans and PID 1 are the same for all of them."""
