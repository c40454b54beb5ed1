"""The server of the API with real clients: curl, Python's requests, httpx and websockets, Node's fetch and WebSocket, OpenSSL.

What the server does with bytes that no decent client sends is in src/control/http_server_test.cc.
"""

import asyncio
import json
import os
import pathlib
import resource
import signal
import socket
import ssl
import subprocess

import httpx
import pytest
import requests
import websockets

import kit
from attacks_support import eventually

BUILD = pathlib.Path(os.environ.get("POSTERN_BUILD", kit.ROOT / "build" / "release"))
SERVER = BUILD / "tests" / "control_test_server"
MIB = 1024 * 1024


class Server:
    def __init__(self, *words, **options):
        self.process = subprocess.Popen([SERVER, *map(str, words)], stdout=subprocess.PIPE, text=True, **options)
        self.port = int(self.process.stdout.readline())
        self.at = f"127.0.0.1:{self.port}"

    def resident(self):
        with open(f"/proc/{self.process.pid}/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        """All that it said since."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[0]
        assert self.process.returncode == 0
        assert said.endswith("stopped\n")
        return said


@pytest.fixture
def server():
    started = Server()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def certificate(authority):
    return authority.certificate("localhost")


@pytest.fixture
def tls_server(certificate):
    started = Server(*certificate)
    yield started
    started.stop()


def curl(*words):
    return subprocess.run(["curl", "-sS", "--max-time", "60", *map(str, words)], capture_output=True, check=True).stdout


def node(script, *words):
    done = subprocess.run(["node", "--experimental-websocket", "--input-type=module", "-e", script, *map(str, words)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_uploads_and_downloads_what_is_larger_than_memory_would_bear(server, place):
    size = 300 * MIB
    file = place / "large"
    with open(file, "wb") as out:
        out.truncate(size)
    before = server.resident()
    assert curl("-T", file, "-X", "POST", f"http://{server.at}/count") == str(size).encode()  # with "Expect: 100-continue"
    assert curl("-T", file, "-X", "POST", "-H", "Expect:", "-H", "Transfer-Encoding: chunked", f"http://{server.at}/count") == str(size).encode()
    assert curl("-o", os.devnull, "-w", "%{size_download}", f"http://{server.at}/letters?count={size}") == str(size).encode()
    assert curl("-o", os.devnull, "-w", "%{size_download}", f"http://{server.at}/letters?count={size}&chunked") == str(size).encode()
    if "asan" not in str(BUILD):  # which keeps what was freed
        assert server.resident() < before + 32 * MIB


def test_curl_keeps_its_connection(server):
    urls = [f"http://{server.at}/hello/{n}" for n in range(5)]
    said = curl("-w", "%{num_connects}\n", *urls).decode().split("\n")
    assert said[0::2][:5] == [f"hello {n}" for n in range(5)]
    assert said[1::2][:5] == ["1", "0", "0", "0", "0"]
    assert curl("-I", f"http://{server.at}/letters?count=5").startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_and_httpx_keep_theirs(server):
    with requests.Session() as session:
        for n in range(3):
            assert session.get(f"http://{server.at}/hello/{n}").text == f"hello {n}\n"
        assert session.post(f"http://{server.at}/echo", data=b"x" * MIB).content == b"x" * MIB
        assert session.post(f"http://{server.at}/echo", data=iter([b"a", b"b" * 100_000])).content == b"a" + b"b" * 100_000  # chunked
        assert session.post(f"http://{server.at}/echo", data=b"x" * (MIB + 1)).status_code == 413
        files = {"file": ("file", b"y" * MIB, "application/octet-stream")}
        assert int(session.post(f"http://{server.at}/count", files=files).text) > MIB
        answer = session.get(f"http://{server.at}/nothing")
        assert answer.status_code == 404
        assert answer.json()["detail"]["error"] == "NotFound"
        assert session.delete(f"http://{server.at}/hello").status_code == 204
        assert session.put(f"http://{server.at}/hello").headers["Allow"] == "DELETE, GET, HEAD"
    with httpx.Client() as client:
        for n in range(3):
            assert client.get(f"http://{server.at}/hello/{n}").text == f"hello {n}\n"
        with client.stream("GET", f"http://{server.at}/letters?count=1000000&chunked") as answer:
            assert sum(map(len, answer.iter_bytes())) == 1_000_000


def test_many_at_once(server):
    async def ask():
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            answers = await asyncio.gather(*(client.get(f"http://{server.at}/hello/{n}") for n in range(500)))
            return [answer.text for answer in answers]

    assert asyncio.run(ask()) == [f"hello {n}\n" for n in range(500)]
    said = server.stop().splitlines()
    assert sorted(line for line in said if line.startswith("GET")) == sorted(f"GET /hello/{n} 200" for n in range(500))


def test_nodes_fetch_reads_and_writes(server):
    said = json.loads(node("""
        const at = process.argv[1]
        const hello = await (await fetch(`${at}/hello/node`)).text()
        const echo = await (await fetch(`${at}/echo`, {method: 'POST', body: 'x'.repeat(100000)})).text()
        const form = new FormData()
        form.append('file', new Blob(['y'.repeat(200000)]), 'file')
        const count = Number(await (await fetch(`${at}/count`, {method: 'POST', body: form})).text())
        const missing = await fetch(`${at}/nothing`)
        const detail = (await missing.json()).detail.error
        const letters = (await (await fetch(`${at}/letters?count=300000&chunked`)).text()).length
        console.log(JSON.stringify([hello, echo.length, count > 200000, missing.status, detail, letters]))
    """, f"http://{server.at}"))
    assert said == ["hello node\n", 100000, True, 404, "NotFound", 300000]


def test_nodes_websocket_talks(server):
    said = json.loads(node("""
        const socket = new WebSocket(process.argv[1])
        socket.binaryType = 'arraybuffer'
        const seen = []
        await new Promise((resolve, reject) => {
          socket.onopen = () => { socket.send('hé'); socket.send(new Uint8Array(50000)) }
          socket.onerror = reject
          socket.onmessage = ({data}) => {
            seen.push(typeof data === 'string' ? data : data.byteLength)
            if (seen.length === 2) socket.send('!close')
          }
          socket.onclose = ({code, reason, wasClean}) => { seen.push(code, reason, wasClean); resolve() }
        })
        console.log(JSON.stringify(seen))
    """, f"ws://{server.at}/ws"))
    assert said == ["hé", 50000, 4000, "as you wish", True]


def test_pythons_websockets_talk(server):
    async def talk():
        async with websockets.connect(f"ws://{server.at}/ws") as socket:  # offers permessage-deflate, which is declined
            await socket.send("héllo")
            assert await socket.recv() == "héllo"
            await socket.send([b"in ", b"pieces"])
            assert await socket.recv() == b"in pieces"
            await (await socket.ping())
            await socket.send("!pour 10000000")
            received = 0
            while received < 10_000_000:
                received += len(await socket.recv())
            assert received == 10_000_000
            await socket.send("!close")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert (closed.value.code, closed.value.reason) == (4000, "as you wish")

    asyncio.run(talk())


def test_a_message_that_is_too_large_closes_the_socket(server):
    async def talk():
        async with websockets.connect(f"ws://{server.at}/ws") as socket:
            await socket.send(b"x" * 100_000)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.code == 1009

    asyncio.run(talk())


def test_hundreds_of_idle_sockets_cost_little(server):
    async def talk():
        async with websockets.connect(f"ws://{server.at}/ws") as first:
            await first.send("x")
            await first.recv()
            before = server.resident()
            sockets = await asyncio.gather(*(websockets.connect(f"ws://{server.at}/ws") for _ in range(300)))
            await asyncio.gather(*(socket.send("x") for socket in sockets))
            await asyncio.gather(*(socket.recv() for socket in sockets))
            grown = server.resident() - before
            await asyncio.gather(*(socket.close() for socket in sockets))
            return grown

    assert asyncio.run(talk()) / 300 < 48 * 1024


def test_tls_serves_the_same(tls_server, authority):
    at = f"https://localhost:{tls_server.port}"
    assert curl("--cacert", authority.file, f"{at}/hello") == b"hello\n"
    assert curl("--cacert", authority.file, "-o", os.devnull, "-w", "%{size_download}", f"{at}/letters?count=20000000") == b"20000000"
    with requests.Session() as session:
        session.trust_env = False  # REQUESTS_CA_BUNDLE goes before what is said here
        session.verify = str(authority.file)
        for n in range(3):
            assert session.get(f"{at}/hello/{n}").text == f"hello {n}\n"
        assert session.post(f"{at}/echo", data=b"x" * MIB).content == b"x" * MIB
        assert session.post(f"{at}/echo", data=b"x" * (MIB + 1)).status_code == 413
    closing = curl("--cacert", authority.file, "-H", "Connection: close", "-v", "--stderr", "-", f"{at}/hello").decode()
    assert "hello\n" in closing and "error" not in closing.lower()
    trust = ssl.create_default_context(cafile=str(authority.file))

    async def talk():
        async with websockets.connect(f"wss://localhost:{tls_server.port}/ws", ssl=trust, server_hostname="localhost") as socket:
            await socket.send("hello")
            assert await socket.recv() == "hello"
            await socket.send("!pour 5000000")
            received = 0
            while received < 5_000_000:
                received += len(await socket.recv())
            await socket.send("!close")
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.code == 4000

    asyncio.run(talk())


@pytest.mark.parametrize("words, works", [(["-tls1_3"], True), (["-tls1_2"], True), (["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], False),
                                          (["-alpn", "http/1.1"], True), (["-alpn", "h2"], False)])
def test_tls_is_of_today_and_carries_http1(tls_server, authority, words, works):
    done = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{tls_server.port}", "-servername", "localhost", "-CAfile", authority.file,
                           "-verify_return_error", "-quiet", *words], input=b"GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
                          capture_output=True, timeout=30)
    assert (b"hello\n" in done.stdout) == works, done.stderr


def test_it_survives_having_no_descriptor_left():
    server = Server(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)))
    try:
        peers = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(60)]
        for peer in peers:
            peer.close()
        assert curl(f"http://{server.at}/hello") == b"hello\n"
    finally:
        server.stop()


def test_nothing_is_left_of_those_who_went(server):
    assert curl(f"http://{server.at}/hello") == b"hello\n"
    before = server.descriptors()
    for target in ["/hello", "/letters?count=100000000", "/nothing"]:
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", server.port), 10) as peer:
                peer.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                peer.recv(10)

    async def talk():
        async with websockets.connect(f"ws://{server.at}/ws") as peer:
            await peer.send("x")
            await peer.recv()

    for _ in range(30):
        asyncio.run(talk())
    assert eventually(lambda: server.descriptors() <= before + 1)


def test_stopping_says_goodbye():
    server = Server()

    async def talk():
        async with websockets.connect(f"ws://{server.at}/ws") as peer:
            await peer.send("x")
            await peer.recv()
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await peer.recv()
            return closed.value.code

    assert asyncio.run(talk()) == 1001
    assert "GET /ws 101\n" in server.stop()


def test_a_certificate_that_does_not_fit_its_key_is_said(certificate, authority):
    other = authority.certificate("localhost")
    done = subprocess.run([SERVER, certificate[0], other[1]], capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not the key of" in done.stderr or str(other[1]) in done.stderr
