"""A client that shows how the mesh treats it when servers fail.

churn ADDRESS PORT SECONDS      connects up to 50 times a second; prints: connections, failures, milliseconds from the first failure to the last
                                failure of the first burst, and the longest connect in milliseconds
wait MARKER ADDRESS...          holds a TCP connection (port 9001) and a connected UDP socket (port 9000) to each address, creates
                                the file MARKER, and waits; prints for each a line: kind, address, error number, seconds since 1970
"""
import os
import select
import socket
import sys
import time


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def churn(address, port, seconds):
    end = time.monotonic() + float(seconds)
    connections, longest, failures = 0, 0.0, []
    while time.monotonic() < end:
        began = time.monotonic()
        with socket.socket(family_of(address), socket.SOCK_STREAM) as stream:
            stream.settimeout(10)
            try:
                stream.connect((address, int(port)))
            except OSError:
                failures.append(time.monotonic())
        connections += 1
        longest = max(longest, time.monotonic() - began)
        # Slow enough that the server's queue never overflows: a dropped packet would be a failure of its own.
        time.sleep(0.02)
    burst = [at for at in failures if at - failures[0] < 0.5]
    window = (burst[-1] - burst[0]) * 1000 if burst else 0
    print(connections, len(failures), f"{window:.1f}", f"{longest * 1000:.1f}")


def wait(marker, addresses):
    waiting = {}
    for address in addresses:
        stream = socket.create_connection((address, 9001), timeout=10)
        stream.sendall(b"x")
        datagrams = socket.socket(family_of(address), socket.SOCK_DGRAM)
        datagrams.settimeout(10)
        datagrams.connect((address, 9000))
        datagrams.send(b"x")
        datagrams.recv(16)
        for kind, held in [("tcp", stream), ("udp", datagrams)]:
            held.setblocking(False)
            waiting[held.fileno()] = (kind, address, held)
    with open(marker, "w", encoding="ascii"):
        pass
    poll = select.poll()
    for descriptor in waiting:
        poll.register(descriptor, select.POLLIN)
    end = time.monotonic() + 50
    while waiting and time.monotonic() < end:
        for descriptor, _ in poll.poll(1000):
            kind, address, held = waiting.pop(descriptor)
            poll.unregister(descriptor)
            try:
                held.recv(16)
                error = 0
            except OSError as failure:
                error = failure.errno
            print(kind, address, error, f"{time.time():.3f}", flush=True)
    for kind, address, _ in waiting.values():
        print(kind, address, "hangs", f"{time.time():.3f}", flush=True)
    if os.path.exists(marker):
        os.remove(marker)


if sys.argv[1] == "churn":
    churn(*sys.argv[2:])
else:
    wait(sys.argv[2], sys.argv[3:])
