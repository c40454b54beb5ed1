"""ClientHellos as real clients send them: larger than a segment, in pieces, with and without ALPN."""

import json

import kit
from clients_support import CANARY, caller, client, scripted, simple_answer  # noqa: F401 (fixtures)

HOST = "api.example.test"

# A TLS client whose first flight goes out as `cut` decides; afterwards it behaves.
CLIENT = """
import socket, ssl, sys
sys.path.insert(0, "clients")
from talk import tell

def shake(cut, host="api.example.test", alpn=None, version=None):
    context = ssl.create_default_context()
    if alpn: context.set_alpn_protocols(alpn)
    if version: context.maximum_version = version
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    plain = socket.create_connection((host, 443), 20)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    def attempt(action):
        while True:
            try:
                result, wants = action(), False
            except ssl.SSLWantReadError:
                result, wants = None, True
            data = outgoing.read()
            for piece in cut(data) if data and not tls.cipher() else [data]:
                plain.sendall(piece)
            if not wants: return result
            got = plain.recv(65536)
            if not got: raise EOFError("the connection ended")
            incoming.write(got)
    attempt(tls.do_handshake)
    if tls.selected_alpn_protocol() == "h2": return tell(alpn="h2")
    attempt(lambda: tls.write(f"GET / HTTP/1.1\\r\\nHost: {host}\\r\\n\\r\\n".encode()))
    answer = b""
    while not answer.endswith(b"the end"):
        answer += attempt(lambda: tls.read(65536))
    tell(answer=answer[-7:], alpn=tls.selected_alpn_protocol(), version=tls.version())

def records(data, size):
    "The same handshake message in more TLS records (RFC 8446, 5.1)."
    if data[0] != 22: return [data]
    length = int.from_bytes(data[3:5], "big")
    message = data[5:5 + length]
    parts = [message[at:at + size] for at in range(0, len(message), size)]
    return [data[:3] + len(part).to_bytes(2, "big") + part for part in parts] + [data[5 + length:]]
"""


def shaken(caller, scripted, script):
    def answer(connection, number):
        while origin.read_head(connection):
            connection.sendall(simple_answer(b"the end"))

    origin = scripted(answer, HOST)
    run = caller.at(HOST, origin.port).python(CLIENT + script, policy=kit.header_rule(HOST), secrets={"KEY": CANARY})
    assert run.status == 0, run.stderr + run.log_text
    return [json.loads(line) for line in run.stdout.splitlines()]


def test_a_client_hello_in_single_bytes_is_understood(client, scripted):
    told = shaken(client, scripted, "shake(lambda data: [bytes([byte]) for byte in data])")
    assert told[0]["answer"] == "the end"


def test_a_client_hello_that_spans_records_is_understood(caller, scripted):
    told = shaken(caller, scripted, "for size in (1000, 100, 7): shake(lambda data: records(data, size))")
    assert [line["answer"] for line in told] == ["the end"] * 3


def test_a_client_hello_of_post_quantum_size_is_understood(caller, scripted):
    """Two kilobytes and more, here by many ALPN names, in segments of the usual size."""
    told = shaken(caller, scripted, "shake(lambda data: [data[:1400], data[1400:2800], data[2800:]], "
                  "alpn=['x-%03d-%s' % (n, 'y' * 60) for n in range(60)] + ['http/1.1'])")
    assert told == [{"answer": "the end", "alpn": "http/1.1", "version": "TLSv1.3"}]


def test_alpn_is_chosen_from_what_the_client_offers(caller, scripted):
    told = shaken(caller, scripted, "whole = lambda data: [data]\nshake(whole)\nshake(whole, alpn=['http/1.1'])\nshake(whole, alpn=['http/1.1', 'h2'])")
    assert [line["alpn"] for line in told] == [None, "http/1.1", "h2"]


def test_a_client_of_tls_1_2_is_served(caller, scripted):
    told = shaken(caller, scripted, "shake(lambda data: [data], version=ssl.TLSVersion.TLSv1_2)")
    assert told[0]["version"] == "TLSv1.2" and told[0]["answer"] == "the end"
