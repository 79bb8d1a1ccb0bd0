"""The side that asks. `client.py COMMAND ARGUMENT...`; exits with 1 and says why when a promise is broken."""
import os
import socket
import struct
import sys
import time


def halfclose(address, port, times):
    """Writes, closes its half, and reads what comes back until the end, with plain blocking calls."""
    for turn in range(int(times)):
        sent = os.urandom((turn * 977) % 200000)
        with socket.create_connection((address, int(port)), timeout=None) as stream:
            assert stream.getpeername()[0] == address, stream.getpeername()
            stream.sendall(sent)
            stream.shutdown(socket.SHUT_WR)
            received = bytearray()
            while part := stream.recv(65536):
                received += part
        assert received == sent, f"turn {turn}: {len(received)} of {len(sent)} bytes"


def udp(address, port, times):
    """Asks with an unconnected and a connected socket; both must hear the service, not its backend."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    service = (address, int(port))
    with socket.socket(family, socket.SOCK_DGRAM) as unconnected:
        unconnected.settimeout(3)
        for turn in range(int(times)):
            sent = b"%d:" % turn + os.urandom(turn % 1000)
            unconnected.sendto(sent, service)
            received, sender = unconnected.recvfrom(65536)
            assert received == sent, f"turn {turn}: another datagram"
            assert sender[:2] == service, f"turn {turn}: the answer came from {sender}"
    with socket.socket(family, socket.SOCK_DGRAM) as connected:
        connected.settimeout(3)
        connected.connect(service)
        assert connected.getpeername()[:2] == service, connected.getpeername()
        for turn in range(int(times)):
            sent = b"%d:" % turn + os.urandom(turn % 1000)
            connected.send(sent)
            received, sender = connected.recvfrom(65536)
            assert received == sent, f"turn {turn}: another datagram"
            assert sender[:2] == service, f"turn {turn}: the answer came from {sender}"


def dualstack(address, port):
    """An IPv6 socket that asks for an IPv4 service, as runtimes with one kind of socket do."""
    mapped = "::ffff:" + address
    for family_only in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET6, family_only) as client:
            client.settimeout(5)
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.connect((mapped, int(port) - (family_only == socket.SOCK_DGRAM)))
            assert client.getpeername()[0] == mapped, client.getpeername()
            client.sendall(b"hello")
            if family_only == socket.SOCK_STREAM:
                client.shutdown(socket.SHUT_WR)
            received = client.recv(100)
            assert received == b"hello", received


def refused(address, port):
    """Prints the error and the milliseconds that a connection took to fail."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        began = time.monotonic()
        error = client.connect_ex((address, int(port)))
        print(error, int((time.monotonic() - began) * 1000))


def resolve(name, family):
    """Prints the addresses that the C library finds, sorted, and the milliseconds it took."""
    family = socket.AF_INET6 if family == "6" else socket.AF_INET
    began = time.monotonic()
    try:
        found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
        text = " ".join(sorted(entry[4][0] for entry in found))
    except socket.gaierror as error:
        text = {socket.EAI_NONAME: "no-such-name", socket.EAI_AGAIN: "again"}.get(error.errno, str(error))
    print(int((time.monotonic() - began) * 1000), text)


def skip_name(message, at):
    while True:
        length = message[at]
        if length >= 0xC0:
            return at + 2
        at += 1 + length
        if length == 0:
            return at


def query(name, kind):
    """Asks the pod's name server itself; prints the response code, the milliseconds, and the ports of SRV records."""
    with open("/etc/resolv.conf") as lines:
        server = next(line.split()[1] for line in lines if line.startswith("nameserver"))
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    question = labels + b"\0" + struct.pack("!HH", int(kind), 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        began = time.monotonic()
        client.sendto(struct.pack("!HHHHHH", 77, 0x0100, 1, 0, 0, 0) + question, (server, 53))
        message, sender = client.recvfrom(4096)
        took = int((time.monotonic() - began) * 1000)
    assert sender[:2] == (server, 53), f"the answer came from {sender}"
    number, flags, _, answers, _, _ = struct.unpack("!HHHHHH", message[:12])
    assert number == 77 and flags & 0x8000, "no answer to this question"
    at = skip_name(message, 12) + 4
    ports = []
    for _ in range(answers):
        at = skip_name(message, at)
        found, _, _, length = struct.unpack("!HHIH", message[at : at + 10])
        if found == 33:
            ports.append(str(struct.unpack("!H", message[at + 14 : at + 16])[0]))
        at += 10 + length
    print(flags & 15, took, " ".join(ports))


globals()[sys.argv[1]](*sys.argv[2:])
