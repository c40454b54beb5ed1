"""A small internet in a network namespace of its own, and a sandbox in it. Started by `unshare --net --mount`.

Reads its description from standard input (JSON) and writes what happened to standard output (JSON):
  zones       {"name kind": [[answer, ...], ...]}: the answers to the 1st, 2nd, ... question; the last one stays
  addresses   addresses of "hosts" in this world; on each listens an HTTP server that keeps what it gets
  ports       where they listen
  command     postern's command line; environment, directory: where it runs
"""

import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading

KINDS = {"A": 1, "CNAME": 5, "AAAA": 28}
asked = []
reached = []


def wire_name(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"


def record(name, kind, value):
    data = socket.inet_pton(socket.AF_INET, value) if kind == "A" else \
        socket.inet_pton(socket.AF_INET6, value) if kind == "AAAA" else wire_name(value)
    return wire_name(name) + struct.pack("!HHIH", KINDS[kind], 1, 0, len(data)) + data  # A TTL of 0, always.


def answers(zones, name, kind):
    """Follows CNAMEs as a resolver does."""
    key = f"{name} {kind}"
    if f"{name} CNAME" in zones:
        target = zones[f"{name} CNAME"][0][0]
        return [record(name, "CNAME", target), *answers(zones, target, kind)]
    steps = zones.get(key, [[]])
    values = steps.pop(0) if len(steps) > 1 else steps[0]
    return [record(name, kind, value) for value in values]


def nameserver(zones):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    while True:
        query, peer = server.recvfrom(4096)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("latin-1").lower())
            at += 1 + query[at]
        kind = int.from_bytes(query[at + 1:at + 3], "big")
        name = ".".join(labels)
        asked.append([name, kind])
        known = any(key.split(" ")[0] == name for key in zones)
        found = answers(zones, name, {1: "A", 28: "AAAA"}[kind]) if kind in (1, 28) else []
        head = query[:2] + bytes([0x81, 0x80 if known else 0x83]) + struct.pack("!HHHH", 1, len(found), 0, 0)
        server.sendto(head + query[12:at + 5] + b"".join(found), peer)


def origin(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(64)

    def serve():
        while True:
            connection, _ = listener.accept()
            reached.append([address, port])
            connection.settimeout(10)
            try:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nreached")
            except OSError:
                pass
            connection.close()
    threading.Thread(target=serve, daemon=True).start()


def main():
    world = json.load(sys.stdin)
    ip = lambda *words: subprocess.run(["ip", *words], check=True)
    ip("link", "set", "lo", "up")
    for address in world["addresses"]:
        if not address.startswith(("127.", "0.")) and address != "::1":
            ip("address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
    for address in world["addresses"]:
        for port in world["ports"]:
            origin("127.0.0.1" if address.startswith("0.") else address, port)
    resolver = pathlib.Path(world["directory"]) / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
    subprocess.run(["mount", "--bind", resolver, os.path.realpath("/etc/resolv.conf")], check=True)
    threading.Thread(target=nameserver, args=(world["zones"],), daemon=True).start()
    done = subprocess.run(world["command"], cwd=world["work"], env=world["environment"], capture_output=True, text=True, errors="replace",
                          timeout=100)
    json.dump({"status": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "asked": asked, "reached": reached}, sys.stdout)


main()
