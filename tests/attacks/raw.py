"""Runs inside the sandbox and does what the test outside says: one JSON order a line, one JSON answer a line.

Orders are dictionaries with "do" naming a function below; bytes travel as latin-1 text. Only Python's standard library, and every
socket is made by hand: a client library would repair, or refuse to send, exactly the bytes that an attack is made of.
"""

import functools
import json
import os
import select
import socket
import ssl
import sys
import time
import traceback

HELD = []  # Connections that "hold" keeps open.
DIALLED = []  # Those of "dial", by number.
LIMIT = 20  # Seconds for what takes milliseconds.


class Plain:
    def __init__(self, connection):
        self.connection = connection

    def send(self, data):
        self.connection.sendall(data)

    def receive(self):
        return self.connection.recv(65536)

    def half_close(self):
        self.connection.shutdown(socket.SHUT_WR)


@functools.lru_cache  # Reading the system's authorities takes longer than most attacks.
def tls_context(check_name, check, alpn, lowest, highest):
    context = ssl.create_default_context()
    context.check_hostname = check_name
    if not check:
        context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if lowest or highest:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = getattr(ssl.TLSVersion, lowest or "TLSv1")
        context.maximum_version = getattr(ssl.TLSVersion, highest or "TLSv1_3")
    return context


class Tls:
    """TLS on a memory BIO, so that the first flight can be cut at will."""

    def __init__(self, connection, sni, alpn=(), check=True, record=0, step=0, lowest=None, highest=None):
        self.connection = connection
        context = tls_context(bool(check and sni), bool(check), tuple(alpn), lowest, highest)
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inward, self.outward, server_hostname=sni)
        self.first = True
        self.record, self.step = record, step
        self._pump(self.tls.do_handshake)

    def _flush(self):
        data = self.outward.read()
        if not data:
            return
        if self.first and self.record:
            data = records(data, self.record)
        if self.first and self.step:
            for i in range(0, len(data), self.step):
                self.connection.sendall(data[i:i + self.step])
        else:
            self.connection.sendall(data)
        self.first = False

    def _pump(self, action, *words):
        while True:
            try:
                result = action(*words)
                self._flush()
                return result
            except ssl.SSLWantReadError:
                self._flush()
                data = self.connection.recv(65536)
                if data:
                    self.inward.write(data)
                else:
                    self.inward.write_eof()

    def send(self, data):
        self._pump(self.tls.write, data)

    def receive(self):
        try:
            return self._pump(self.tls.read, 65536)
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""

    def half_close(self):
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self._flush()


def records(flight, size):
    """A TLS flight of one handshake record as records of `size` bytes each."""
    length = int.from_bytes(flight[3:5], "big")
    body, rest = flight[5:5 + length], flight[5 + length:]
    pieces = [body[i:i + size] for i in range(0, len(body), size)]
    return b"".join(flight[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces) + rest


def client_hello(sni=None, **more):
    """The bytes of Python's own ClientHello."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    outward = ssl.MemoryBIO()
    try:
        context.wrap_bio(ssl.MemoryBIO(), outward, server_hostname=sni).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outward.read()


def connect(order):
    connection = socket.create_connection((order.get("address") or order["host"], order["port"]), LIMIT)
    connection.settimeout(order.get("timeout", LIMIT))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if order.get("tls") is None:
        return Plain(connection)
    return Tls(connection, **{"sni": order["host"], **order["tls"]})


def talk(order):
    """Sends exact bytes and reads what comes: until the end, or until `until` was seen `times` times."""
    received, end = b"", "closed"
    until, times = order.get("until", "").encode("latin-1"), order.get("times", 1)
    try:
        stream = connect(order)
        for piece in order.get("send", []):
            stream.send(piece.encode("latin-1"))
            if order.get("pause"):
                time.sleep(order["pause"])  # Pieces that TCP must not join.
        if order.get("half_close"):
            stream.half_close()
        while not (until and received.count(until) >= times):
            data = stream.receive()
            if not data:
                break
            received += data
        else:
            end = "enough"
        stream.connection.close()
    except TimeoutError:
        end = "timeout"
    except ConnectionError:
        end = "reset"
    except ssl.SSLError as error:
        end = "tls: " + str(error)
    except OSError as error:
        end = "error: " + str(error)
    return {"received": received.decode("latin-1"), "end": end}


def hold(order):
    """Opens connections, sends the same bytes on each, and keeps them."""
    opened = refused = 0
    for _ in range(order["count"]):
        try:
            stream = connect(order)
            for piece in order.get("send", []):
                stream.send(piece.encode("latin-1"))
            HELD.append(stream)
            opened += 1
        except ConnectionError:
            refused += 1
        except OSError:
            pass
    return {"opened": opened, "refused": refused}


def held(order):
    """How many of the held connections the other side has neither closed nor reset; nobody has sent anything."""
    count = 0
    for stream in HELD:
        stream.connection.setblocking(False)  # With a time-out, Python would wait.
        try:
            data = stream.connection.recv(1)
            assert not data, data
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return {"open": count}


def ends(order):
    """Waits until every held connection was ended by the other side; says how many were not."""
    end, left = time.monotonic() + order["seconds"], 0
    for stream in HELD:
        try:
            stream.connection.settimeout(max(0.01, end - time.monotonic()))
            while stream.connection.recv(65536):
                pass
        except TimeoutError:
            left += 1
        except OSError:
            pass
    return {"left": left}


def release(order):
    for stream in HELD:
        stream.connection.close()
    HELD.clear()
    return {}


def dial(order):
    """Opens a connection for "write", "read", "flood" and "hang_up"."""
    try:
        stream = connect(order)
    except (OSError, ssl.SSLError) as error:
        return {"error": str(error)}
    DIALLED.append(stream)
    return {"id": len(DIALLED) - 1, "alpn": stream.tls.selected_alpn_protocol() if isinstance(stream, Tls) else None}


def write(order):
    """Writes it, `times` times."""
    stream, data = DIALLED[order["id"]], order["data"].encode("latin-1")
    stream.connection.settimeout(order.get("timeout", LIMIT))
    try:
        if order.get("step"):
            for i in range(0, len(data), order["step"]):
                stream.send(data[i:i + order["step"]])
        else:
            stream.send(data * order.get("times", 1))
    except TimeoutError:
        return {"end": "timeout"}
    except (OSError, ssl.SSLError):
        return {"end": "reset"}
    return {"end": "open"}


def read(order):
    """What is there, or what comes next."""
    stream = DIALLED[order["id"]]
    stream.connection.settimeout(order["timeout"])
    try:
        data = stream.receive()
    except TimeoutError:
        return {"received": "", "end": "timeout"}
    except ConnectionError:
        return {"received": "", "end": "reset"}
    except (OSError, ssl.SSLError) as error:
        return {"received": "", "end": "error: " + str(error)}
    return {"received": data.decode("latin-1"), "end": "open" if data else "closed"}


def flood(order):
    """Writes as fast as the other side takes it, `times` copies, and meanwhile reads unless told not to, so that neither waits for the
    other. Ends early when the other side ends it, or stops taking for `patience` seconds."""
    stream, piece = DIALLED[order["id"]], order["data"].encode("latin-1")
    left, batch, received, end = order["times"], order.get("batch", 64), bytearray(), "open"
    patience, plain = order.get("patience", 3), stream.connection
    pending = bytearray()

    def take():
        data = plain.recv(1 << 18)
        if not data:
            raise ConnectionResetError
        stream.inward.write(data)
        try:
            while data := stream.tls.read(1 << 18):
                received.extend(data)
        except ssl.SSLWantReadError:
            return
        raise ConnectionResetError  # close_notify

    plain.setblocking(False)
    try:
        while left or pending:
            if not pending:
                count = min(batch, left)
                stream.tls.write(piece * count)
                left -= count
                pending.extend(stream.outward.read())
            readable, writable, _ = select.select([plain] if order.get("read", True) else [], [plain], [], patience)
            if readable:
                take()
            if writable:
                del pending[:plain.send(pending)]
            if not readable and not writable:
                end = "timeout"
                break
    except (OSError, ssl.SSLError):
        end = "reset"
        try:  # What it said before it went.
            while True:
                take()
        except (OSError, ssl.SSLError):
            pass
    plain.settimeout(LIMIT)
    return {"sent": order["times"] - left, "received": received.decode("latin-1"), "end": end}


def hang_up(order):
    stream = DIALLED[order["id"]]
    try:
        if order["how"] == "half":
            stream.half_close()
        elif order["how"] == "reset":
            stream.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            stream.connection.close()
        else:
            stream.connection.close()
    except OSError:
        pass
    return {}


def question(name, kind):
    labels = b"".join(bytes([len(label)]) + label for label in name.encode("latin-1").split(b".")) + b"\0"
    return os.urandom(2) + b"\1\0\0\1\0\0\0\0\0\0" + labels + kind.to_bytes(2, "big") + b"\0\1"


def dns(order):
    """One DNS question; answers the response code and the number of answers, or "none"."""
    query = question(order["name"], order["kind"])
    server = (order.get("server", "8.8.8.8"), 53)
    try:
        if order.get("tcp"):
            with socket.create_connection(server, LIMIT) as connection:
                connection.sendall(len(query).to_bytes(2, "big") + query)
                stream = connection.makefile("rb")
                answer = stream.read(int.from_bytes(stream.read(2), "big"))
        else:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.settimeout(order.get("timeout", LIMIT))
                udp.sendto(query, server)
                answer = udp.recv(4096)
    except OSError as error:
        return {"code": "none", "answers": 0, "why": str(error)}
    if len(answer) < 12:
        return {"code": "none", "answers": 0, "why": "closed"}
    return {"code": answer[3] & 15, "answers": int.from_bytes(answer[6:8], "big"), "bytes": answer.decode("latin-1")}


def many_names(order):
    """A TLS connection and a request for each of `count` random names below `below`."""
    statuses = {}
    context = ssl.create_default_context()
    for i in range(order["count"]):
        name = os.urandom(12).hex() + "." + order["below"]
        try:
            with socket.create_connection((order["address"], 443), LIMIT) as plain, context.wrap_socket(plain, server_hostname=name) as tls:
                tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
                answer = tls.recv(12).decode()
        except OSError as error:
            answer = type(error).__name__
        statuses[answer] = statuses.get(answer, 0) + 1
    return {"statuses": statuses}


def run(order):
    """Runs Python code; what it leaves in `result` is the answer."""
    space = {"result": None, "raw": sys.modules[__name__]}
    exec(order["code"], space)
    return {"result": space["result"]}


def search(order):
    """Which files and processes of the sandbox hold one of these. They come reversed, so that asking plants nothing."""
    wanted = [text[::-1].encode("latin-1") for text in order["reversed"]]
    found = []

    def look(path, limit=1 << 22):
        try:
            with open(path, "rb") as file:
                data = file.read(limit)
        except OSError:
            return
        if any(text in data for text in wanted):
            found.append(path)

    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("environ", "cmdline", "comm", "maps", "mountinfo", "stack", "auxv"):
            look(f"/proc/{pid}/{name}")
    for top in order["tops"]:
        for directory, folders, files in os.walk(top):
            folders[:] = [folder for folder in folders if not os.path.ismount(os.path.join(directory, folder))]
            for file in files:
                path = os.path.join(directory, file)
                if os.path.isfile(path) and not os.path.islink(path):
                    look(path)
    return {"found": found}


def main():
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = globals()[order["do"]](order)
        except Exception:  # The test must see what went wrong in here.
            answer = {"broken": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
