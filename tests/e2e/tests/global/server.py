"""Says its name to whoever connects to port 9001, then sends back what it gets."""
import socket
import sys
import threading


def converse(stream):
    with stream:
        stream.sendall(sys.argv[1].encode() + b"\n")
        while part := stream.recv(4096):
            stream.sendall(part)


listener = socket.create_server(("0.0.0.0", 9001), backlog=128)
while True:
    connection, _ = listener.accept()
    threading.Thread(target=converse, args=(connection,), daemon=True).start()
