"""Tries connections to many places at once.

serve NAME PORT...     answers on each port: TCP says the name, then TCP and UDP send back whatever comes
probe                  reads lines of JSON: {"within": seconds, "targets": [[protocol, address, port], ...]}; for each line prints one:
                       a list of what became of each: "ok", "refused" (an error at once), or "silent" (nothing within the time)
names                  reads lines with a name each; for each prints the first IPv4 address that it is told, or an empty line
hold ADDRESS PORT      connects by TCP, prints "held", and waits for the end; prints "ended" and when, in microseconds since 1970
ask ADDRESS PORT       connects by TCP and UDP once; fails unless both answer
stand PROTOCOL ADDRESS PORT
                       connects, prints "held", and says something all the time; prints "echo" and when for each answer, and at the end
                       "ended", when, and the error's name
watch ADDRESS PORT     sends a datagram every few milliseconds; prints a line whenever answers begin or end: "open" or "closed", and when the
                       first, or the last, that was answered was sent
rush ADDRESS PORT FILE connects by TCP and UDP from its first moment on, for two seconds; then FILE holds: tries, answers
catch PORT             waits for datagrams for two seconds after it said "ready"; prints how many came
"""
import errno
import json
import os
import selectors
import socket
import sys
import threading
import time

NAME = (sys.argv[2] if len(sys.argv) > 2 else "").encode()


def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def converse(stream):
    with stream:
        stream.sendall(NAME + b"\n")
        while said := stream.recv(4096):
            stream.sendall(said)


def accept(listener):
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=converse, args=(stream,), daemon=True).start()


def echo(server):
    while True:
        datagram, client = server.recvfrom(2048)
        server.sendto(datagram, client)


def serve(ports):
    for port in map(int, ports):
        listener = socket.create_server(("0.0.0.0", port), backlog=128)
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("0.0.0.0", port))
        threading.Thread(target=echo, args=(server,), daemon=True).start()
    threading.Event().wait()


def probe(within, targets):
    """TCP counts once a byte came: a proxy may have taken the connection before anybody decided."""
    results = ["silent"] * len(targets)
    waiting = selectors.DefaultSelector()
    for index, (protocol, address, port) in enumerate(targets):
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        held = socket.socket(family_of(address), kind)
        held.setblocking(False)
        try:
            error = held.connect_ex((address, port))
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, "connect")
            if protocol == "udp":
                held.send(b"?")
        except OSError:
            results[index] = "refused"
            held.close()
            continue
        waiting.register(held, selectors.EVENT_READ, index)
    end = time.monotonic() + within
    while waiting.get_map() and (left := end - time.monotonic()) > 0:
        for key, _ in waiting.select(left):
            try:
                results[key.data] = "ok" if key.fileobj.recv(64) else "refused"
            except OSError:
                results[key.data] = "refused"
            waiting.unregister(key.fileobj)
            key.fileobj.close()
    for key in list(waiting.get_map().values()):
        key.fileobj.close()
    waiting.close()
    return results


def address_of(name):
    try:
        return socket.gethostbyname(name)
    except OSError:
        return ""


def hold(address, port):
    with socket.create_connection((address, int(port)), timeout=10) as stream:
        stream.recv(64)
        print("held", flush=True)
        stream.settimeout(60)
        try:
            while stream.recv(64):
                pass
        except OSError:
            pass
        print("ended", time.time_ns() // 1000, flush=True)


def stand(protocol, address, port):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family_of(address), kind) as stream:
        stream.settimeout(60)
        stream.connect((address, int(port)))
        if protocol == "tcp":
            stream.recv(64)
        print("held", flush=True)
        ended = "EOF"
        try:
            while stream.send(b"x") and stream.recv(64):
                print("echo", time.time_ns() // 1000, flush=True)
                time.sleep(0.02)
        except OSError as error:
            ended = errno.errorcode.get(error.errno, "silence")
        print("ended", time.time_ns() // 1000, ended, flush=True)


def watch(address, port):
    held = socket.socket(family_of(address), socket.SOCK_DGRAM)
    held.settimeout(0.003)
    is_open, last = None, 0
    while True:
        try:
            held.sendto(str(time.time_ns() // 1000).encode(), (address, int(port)))
            sent = int(held.recv(64))
        except OSError:
            sent = 0
        now = time.time_ns() // 1000
        last = max(last, sent)
        if is_open is not True and sent:
            is_open = True
            print("open", sent, flush=True)
        elif is_open is not False and not sent and now - last > SILENCE_MICROS:
            is_open = False
            print("closed", last, flush=True)
        if sent:
            time.sleep(0.003)


# Longer than a busy machine lets an answer wait.
SILENCE_MICROS = 200_000

def rush(address, port, path):
    tries, answers, end = 0, 0, time.monotonic() + 2
    while time.monotonic() < end:
        fates = probe(0.05, [("tcp", address, int(port)), ("udp", address, int(port))])
        tries += len(fates)
        answers += fates.count("ok")
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(f"{tries} {answers}")
    os.rename(path + ".new", path)
    threading.Event().wait()


def catch(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.bind(("0.0.0.0", int(port)))
        held.settimeout(2)
        print("ready", flush=True)
        caught = 0
        try:
            while held.recv(64):
                caught += 1
        except OSError:
            pass
        print("caught", caught, flush=True)


if sys.argv[1] == "serve":
    serve(sys.argv[3:])
elif sys.argv[1] == "hold":
    hold(*sys.argv[2:])
elif sys.argv[1] == "ask":
    place = (sys.argv[2], int(sys.argv[3]))
    sys.exit(probe(0.5, [("tcp", *place), ("udp", *place)]) != ["ok", "ok"])
elif sys.argv[1] == "stand":
    stand(*sys.argv[2:])
elif sys.argv[1] == "watch":
    watch(*sys.argv[2:])
elif sys.argv[1] == "rush":
    rush(*sys.argv[2:])
elif sys.argv[1] == "catch":
    catch(*sys.argv[2:])
elif sys.argv[1] == "names":
    for line in sys.stdin:
        print(address_of(line.strip()), flush=True)
else:
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(probe(asked["within"], asked["targets"])), flush=True)
