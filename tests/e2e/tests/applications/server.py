"""What the tests talk to: blocking sockets, one thread per conversation.

Port 9001, TCP: reads to the end of the stream, then answers with all that it read.
Port 9000, UDP: sends every datagram back.
"""
import socket
import threading


def converse(stream):
    with stream:
        received = bytearray()
        while part := stream.recv(65536):
            received += part
        stream.sendall(received)


def serve_tcp():
    listener = socket.create_server(
        ("::", 9001), family=socket.AF_INET6, backlog=128, dualstack_ipv6=True
    )
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=converse, args=(stream,), daemon=True).start()


def serve_udp(family, address):
    server = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, 9000))
    while True:
        datagram, client = server.recvfrom(65536)
        server.sendto(datagram, client)


threading.Thread(target=serve_udp, args=(socket.AF_INET, "0.0.0.0"), daemon=True).start()
threading.Thread(target=serve_udp, args=(socket.AF_INET6, "::"), daemon=True).start()
serve_tcp()
