"""Two gigabytes in both directions: whole, and with as little memory as two kilobytes need."""

import pathlib
import re
import subprocess

import pytest

import kit
from clients_support import CANARY, WAIT, caller, scripted, simple_answer  # noqa: F401 (fixtures)

HOST = "api.example.test"
SIZE = 2 * 1024 ** 3
GROWTH_KIB_MAX = 16 * 1024


def high_water_kib(process):
    """The largest resident size so far of any process of Postern's own below this one."""
    def tree(pid):
        yield pid
        for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                yield from tree(int(child))
    sizes = []
    for pid in tree(process.pid):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        if status.startswith("Name:\tpostern"):
            sizes.append(int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]))
    assert sizes, "no process of postern"
    return max(sizes)


@pytest.fixture
def origin(place, nginx):
    """A file of nothing but a hole, by TLS that we end and by TLS that passes through."""
    with open(place / "large", "wb") as file:
        file.truncate(SIZE)
    place.chmod(0o755)
    names = dict(locations=f"""
        location = /large {{ root {place}; sendfile on; }}
        location = /small {{ return 200 small; }}""")
    port = nginx.serve(HOST, **names)
    plain = nginx.serve("plain.example.test", **names)
    nginx.start()
    return port, plain


def measured(caller, port, host, transfer, **more):
    """(what the transfer printed, growth of the high-water mark in KiB). The program waits before and after it to be measured."""
    script = f"""
        curl -sS {more.pop('trust', '')} -o /dev/null https://{host}/small && echo ready && read go
        {transfer}
        echo done && read go"""
    process, log = caller.at(host, port).start("bash", "-c", script, stdin=subprocess.PIPE, **more)
    try:
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        before = high_water_kib(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        lines = []
        while (line := process.stdout.readline()) not in ("done\n", ""):
            lines.append(line)
        assert line, process.stderr.read()
        after = high_water_kib(process)
        process.stdin.write("go\n")
        process.stdin.flush()
        process.wait(WAIT)
    finally:
        process.kill()
        process.wait()
    return "".join(lines), after - before


def test_a_download_of_two_gigabytes_is_whole_and_memory_stays_flat(caller, origin):
    printed, growth = measured(caller, origin[0], HOST, f"curl -sS https://{HOST}/large -o /dev/null -w '%{{size_download}}\\n'",
                               policy=kit.header_rule(HOST), secrets={"KEY": CANARY})
    assert printed == f"{SIZE}\n"
    assert growth < GROWTH_KIB_MAX


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_an_upload_of_two_gigabytes_is_whole_and_memory_stays_flat(caller, scripted, framing):
    def script(connection, number):
        data = origin.read_head(connection)
        if data.startswith(b"GET /small"):
            connection.sendall(simple_answer(b"small"))
            data = origin.read_head(connection)
        if b"100-continue" in data:
            raise AssertionError("the expectation was met by Postern already")
        head, _, body = data.partition(b"\r\n\r\n")
        count, room = len(body), memoryview(bytearray(1 << 18))
        last = bytes(body[-7:])
        # The chunks' own lines make a chunked upload longer; its end is told by the last chunk.
        while not (last.endswith(b"\r\n0\r\n\r\n") if framing == "chunked" else count >= SIZE):
            size = connection.recv_into(room)
            if not size:
                break
            count += size
            last = (last + bytes(room[max(0, size - 7):size]))[-7:]
        connection.sendall(simple_answer(b"%d\n" % count))

    origin = scripted(script, HOST)
    with open(caller.work / "large", "wb") as file:
        file.truncate(SIZE)
    chunked = "-H 'Transfer-Encoding: chunked'" if framing == "chunked" else ""
    printed, growth = measured(caller, origin.port, HOST, f"curl -sS {chunked} -T large https://{HOST}/up",
                               policy=kit.header_rule(HOST), secrets={"KEY": CANARY})
    assert int(printed) == SIZE if not chunked else SIZE < int(printed) < SIZE * 1.01
    assert growth < GROWTH_KIB_MAX


def test_a_download_that_passes_through_untouched_leaves_memory_flat_too(caller, origin):
    trust = f"--cacert {caller.authority.file}"
    printed, growth = measured(caller, origin[1], "plain.example.test",
                               f"curl -sS {trust} https://plain.example.test/large -o /dev/null -w '%{{size_download}}\\n'",
                               trust=trust, options=["--allow", "plain.example.test"])
    assert printed == f"{SIZE}\n"
    assert growth < GROWTH_KIB_MAX
