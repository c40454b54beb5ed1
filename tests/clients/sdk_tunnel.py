"""Tunnels and download links with the Python SDK; says what it found as one line of JSON."""

import concurrent.futures
import hashlib
import json
import socket
import sys
import time
import urllib.request

from langsmith.sandbox import SandboxClient

HOST_PORT = int(sys.argv[1])  # Somebody listens there, on the host.
MIB = 1024 * 1024
found = {}

SERVER = """
import socket, threading
def serve(port, each):
    listening = socket.create_server(("127.0.0.1", port), backlog=128)
    while True:
        threading.Thread(target=each, args=(listening.accept()[0],), daemon=True).start()
def echo(connection):
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()
def flood(connection):
    try:
        while True:
            connection.sendall(bytes(65536))
    except OSError:
        pass
def deaf(connection):
    connection.recv(1)
    threading.Event().wait()
threading.Thread(target=serve, args=(7001, flood), daemon=True).start()
threading.Thread(target=serve, args=(7002, deaf), daemon=True).start()
print("listening", flush=True)
serve(7000, echo)
"""


def read_all(connection, size):
    out = bytearray()
    while len(out) < size:
        piece = connection.recv(65536)
        if not piece:
            break
        out += piece
    return bytes(out)


def connect(tunnel):
    return socket.create_connection(("127.0.0.1", tunnel.local_port), timeout=60)


def echo_once(tunnel, size, seed):
    sent = hashlib.shake_128(str(seed).encode()).digest(size)
    with connect(tunnel) as connection, concurrent.futures.ThreadPoolExecutor(1) as pool:
        sending = pool.submit(connection.sendall, sent)
        same = read_all(connection, size) == sent
        sending.result(60)
        return same


with SandboxClient() as client:
    box = client.create_sandbox(name="tunnels")
    box.write("server.py", SERVER)
    box.write("site/index.html", "<h1>from the box</h1>")
    running = box.run("exec python3 server.py", wait=False)
    for chunk in running:
        found["said"] = chunk.data.strip()
        break
    with box.tunnel(remote_port=7000) as tunnel:
        found["small"] = echo_once(tunnel, 10, 0)
        found["large"] = echo_once(tunnel, 8 * MIB, 1)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            found["many"] = all(pool.map(lambda seed: echo_once(tunnel, 300_000, seed), range(40)))
    with box.tunnel(remote_port=7001) as tunnel:  # More and more comes, and nobody reads.
        stuck = [connect(tunnel) for _ in range(3)]
        found["flood"] = len(read_all(stuck[0], 4 * MIB)) >= 4 * MIB
        for connection in stuck:
            connection.close()
    with box.tunnel(remote_port=7002) as tunnel:  # The other way round.
        with connect(tunnel) as connection:
            connection.settimeout(1)
            taken = 0
            try:
                while taken < 64 * MIB:
                    taken += connection.send(bytes(65536))
            except TimeoutError:
                pass
            found["deaf"] = taken < 64 * MIB
    web = box.run("exec python3 -m http.server 7003 --bind 127.0.0.1 --directory site", wait=False)
    with box.tunnel(remote_port=7003) as tunnel:
        for _ in range(100):
            try:
                found["page"] = urllib.request.urlopen(f"http://127.0.0.1:{tunnel.local_port}/", timeout=20).read().decode()
                break
            except OSError:
                time.sleep(0.1)
    # What listens on the host is not in the box.
    with box.tunnel(remote_port=HOST_PORT, local_port=HOST_PORT - 1) as tunnel:
        with connect(tunnel) as connection:
            try:
                found["host"] = connection.recv(100).decode()
            except ConnectionError:
                found["host"] = ""
    link = box.generate_download_url("site/index.html", expires_in_seconds=600, content_type="text/html", content_disposition="inline")
    with urllib.request.urlopen(link.download_url, timeout=20) as answer:
        found["link"] = [answer.read().decode(), answer.headers["Content-Type"], link.expires_at is not None]
    found["alive"] = box.run("echo yes").stdout
    client.delete_sandbox("tunnels")
print(json.dumps(found))
