"""serve PORT          takes upgrades to an echo, and answers any other request with its own head
upgrade ADDRESS PORT PATH
                    asks for an upgrade; prints the status line, and what came back for what was said behind it
"""
import socket
import sys
import threading


def head_of(stream):
    head = b""
    while b"\r\n\r\n" not in head:
        more = stream.recv(4096)
        if not more:
            break
        head += more
    return head


def answer(stream):
    with stream:
        while head := head_of(stream):
            if b"upgrade: websocket" in head.lower():
                stream.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                while said := stream.recv(4096):
                    stream.sendall(said)
                return
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head) + head)


def serve(port):
    listener = socket.create_server(("0.0.0.0", int(port)), backlog=128)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=answer, args=(stream,), daemon=True).start()


def upgrade(address, port, path):
    with socket.create_connection((address, int(port)), timeout=5) as stream:
        stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: echo\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
        )
        head = head_of(stream)
        print(head.split(b"\r\n")[0].decode())
        if b" 101 " in head:
            stream.sendall(b"GET /private HTTP/1.1\r\n\r\n")
            print(stream.recv(64))


if sys.argv[1] == "serve":
    serve(sys.argv[2])
else:
    upgrade(*sys.argv[2:])
