"""Asks the mesh as a program in a pod does.

ask ADDRESS PORT COUNT      connects so often, one connection after the other; prints who answered, a line for each
hold ADDRESS PORT FILE      connects, creates FILE, waits until it is gone, and uses the connection once more; prints who answered
names NAME...               prints a line for each: its addresses, sorted
"""
import os
import socket
import sys
import time


def greeting(stream):
    received = b""
    while not received.endswith(b"\n"):
        part = stream.recv(64)
        if not part:
            raise OSError("the connection ended without a greeting")
        received += part
    return received.decode().strip()


def ask(address, port, count):
    for _ in range(int(count)):
        with socket.create_connection((address, int(port)), timeout=10) as stream:
            print(greeting(stream))


def hold(address, port, marker):
    with socket.create_connection((address, int(port)), timeout=10) as stream:
        name = greeting(stream)
        with open(marker, "w", encoding="ascii"):
            pass
        end = time.monotonic() + 30
        while os.path.exists(marker) and time.monotonic() < end:
            time.sleep(0.01)
        stream.sendall(b"x")
        if stream.recv(1) != b"x":
            raise OSError("the connection ended")
        print(name)


def names(asked):
    for name in asked:
        try:
            found = socket.getaddrinfo(name, 9001, socket.AF_INET, socket.SOCK_STREAM)
        except socket.gaierror as error:
            print(f"no {error.errno}")
            continue
        print(" ".join(sorted(entry[4][0] for entry in found)))


if sys.argv[1] == "ask":
    ask(*sys.argv[2:])
elif sys.argv[1] == "hold":
    hold(*sys.argv[2:])
else:
    names(sys.argv[2:])
