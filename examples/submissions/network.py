# expect: failed, unreachable
# Asks another machine for the answer.
import socket

with socket.create_connection(("192.0.2.1", 80), timeout=3) as friend:
    friend.sendall(input().encode())
    print(friend.recv(100).decode())
