"""The data plane of the API with real clients and a real agent: Python's httpx, requests and websockets."""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import uuid

import httpx
import pytest
import requests
import websockets

import kit
from attacks_support import eventually

BUILD = pathlib.Path(os.environ.get("POSTERN_BUILD", kit.ROOT / "build" / "release"))
KEY = {"X-Api-Key": "key"}
MIB = 1024 * 1024
HEADERS = "additional_headers" if int(websockets.__version__.split(".")[0]) >= 14 else "extra_headers"


class Server:
    def __init__(self):
        self.process = subprocess.Popen([BUILD / "tests" / "api_test_server"], stdout=subprocess.PIPE, text=True)
        port, home = self.process.stdout.readline().split()
        self.url = f"http://127.0.0.1:{port}/api/v2/sandboxes/box"
        self.home = pathlib.Path(home)

    def close_box(self):
        self.process.send_signal(signal.SIGUSR1)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def server():
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def own_server():
    started = Server()
    yield started
    started.stop()


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, headers=KEY, timeout=60) as made:
        yield made


def execute(client, command, **more):
    answer = client.post("/execute", json={"command": command, "timeout": 30, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


# ---- POST execute


def test_a_command_has_its_output_its_errors_and_its_status(client, server):
    assert execute(client, "echo out; echo err >&2; exit 3") == {"stdout": "out\n", "stderr": "err\n", "exit_code": 3}
    assert execute(client, "echo $A; pwd", env={"A": "b"})["stdout"] == f"b\n{server.home}\n"
    assert execute(client, "pwd", cwd="/usr")["stdout"] == "/usr\n"
    assert execute(client, ["printf", "%s", "$A"])["stdout"] == "$A"
    assert execute(client, "cat")["stdout"] == ""  # no input
    assert execute(client, "kill -9 $$")["exit_code"] == 137
    assert execute(client, "printf '\\xff'")["stdout"] == "\N{REPLACEMENT CHARACTER}"


def test_large_outputs_keep_their_beginning_and_their_end(client):
    said = execute(client, "echo begin; head -c 20000000 /dev/zero | tr '\\0' x; echo end")["stdout"]
    assert said.startswith("begin\nxxx")
    assert said.endswith("xxxend\n")
    assert "bytes were left out" in said
    assert len(said) < 5 * MIB


def test_what_cannot_be_done_is_said_in_the_contracts_words(client):
    def error(status, **body):
        answer = client.post("/execute", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()["detail"]

    assert error(400, command="sleep 100", timeout=1)["error"] == "CommandError"
    assert error(400, command=["/no/such/program"])["error"] == "CommandError"
    assert error(400, command="x", env={}, run_config={})["error"] == "BadRequest"
    assert error(422, command=5)[0]["loc"] == ["body", "command"]
    assert client.post("/execute", content=b"{").status_code == 400
    assert client.post("/execute", content=b'{"command": "' + b"x" * MIB + b'"}').status_code == 413
    assert client.post("/execute", json={"command": "x"}, headers={"X-Api-Key": "reader"}).status_code == 403
    assert client.post("/execute", json={"command": "x"}, headers={"X-Api-Key": "no"}).status_code == 401
    assert httpx.post(str(client.base_url).replace("/box", "/other") + "execute", json={"command": "x"}, headers=KEY).status_code == 404


def test_who_goes_takes_the_command_along(client, server):
    mark = server.home / "pid"
    with pytest.raises(httpx.ReadTimeout):
        client.post("/execute", json={"command": f"echo $$ > {mark}.new; mv {mark}.new {mark}; sleep 1000"}, timeout=2)
    pid = int(mark.read_text())
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_many_wait_at_once(server):
    async def run():
        async with httpx.AsyncClient(headers=KEY, timeout=60, limits=httpx.Limits(max_connections=100)) as many:
            answers = await asyncio.gather(*(many.post(f"{server.url}/execute", json={"command": f"read -t 1 < <(:); sleep 1; echo {n}"}) for n in range(60)))
            return [answer.json()["stdout"] for answer in answers]

    assert asyncio.run(run()) == [f"{n}\n" for n in range(60)]


# ---- execute/ws


@contextlib.asynccontextmanager
async def socket(server, first, **options):
    url = server.url.replace("http://", "ws://") + "/execute/ws"
    async with websockets.connect(url, **{HEADERS: KEY}, **options) as ws:
        await ws.send(json.dumps(first))
        yield ws


async def frames(ws):
    said = [json.loads(frame) async for frame in ws]
    assert ws.close_code == 1000
    return said


def command(script, **more):
    return {"type": "execute", "command": script, "timeout_seconds": 0, "shell": "/bin/bash", "idle_timeout_seconds": -1, "kill_on_disconnect": False, "ttl_seconds": -1, **more}


def joined(said, stream="stdout"):
    """The text of a stream, whose offsets are the bytes before."""
    pieces, place = [], 0  # There may be a hundred thousand frames.
    for frame in said:
        if frame["type"] == stream:
            assert frame["offset"] == place
            pieces.append(frame["data"])
            place += len(frame["data"].encode())
    return "".join(pieces)


def run(server, first):
    async def talk():
        async with socket(server, first) as ws:
            return await frames(ws)

    return asyncio.run(talk())


def test_a_socket_says_started_output_and_exit(server):
    said = run(server, command("echo out; echo err >&2; exit 3", command_id="id-1"))
    assert said[0]["type"] == "started"
    assert said[0]["command_id"] == "id-1"
    assert said[0]["pid"] > 0
    assert joined(said) == "out\n"
    assert joined(said, "stderr") == "err\n"
    assert said[-1] == {"type": "exit", "exit_code": 3}


def test_frames_are_small_and_hold_whole_characters(server):
    said = run(server, command("head -c 3000000 /dev/zero; for i in {1..100000}; do printf 'a\N{EURO SIGN}\N{GRINNING FACE}'; done"))
    assert joined(said) == "\0" * 3_000_000 + "a\N{EURO SIGN}\N{GRINNING FACE}" * 100_000


def test_input_its_end_and_a_terminal(server):
    async def talk():
        async with socket(server, command("cat; echo end")) as ws:
            for piece in ("a" * 700_000, "b" * 700_000):
                await ws.send(json.dumps({"type": "input", "data": piece}))
            await ws.send(json.dumps({"type": "close_stdin"}))
            await ws.send(json.dumps({"type": "close_stdin"}))
            said = await frames(ws)
        assert joined(said) == "a" * 700_000 + "b" * 700_000 + "end\n"
        async with socket(server, command("tty; echo err >&2; read line; echo got $line", pty=True)) as ws:
            await ws.send(json.dumps({"type": "input", "data": "hello\n"}))
            said = await frames(ws)
        assert "got hello" in joined(said)
        assert "/dev/pts/" in joined(said)
        assert "err" in joined(said)
        async with socket(server, command("cat; echo end", close_stdin=True)) as ws:
            assert joined(await frames(ws)) == "end\n"

    asyncio.run(talk())


def test_a_dropped_socket_is_come_back_to_without_a_byte_lost_or_twice(server):
    async def talk():
        name = str(uuid.uuid4())
        got = ""
        script = f"for i in {{1..200}}; do echo line $i \N{EURO SIGN}; done; until [ -e {server.home}/go ]; do sleep 0.05; done; for i in {{201..400}}; do echo line $i; done"
        async with socket(server, command(script, command_id=name)) as ws:
            while "line 150" not in got:
                frame = json.loads(await ws.recv())
                if frame["type"] == "stdout":
                    assert frame["offset"] == len(got.encode())
                    got += frame["data"]
            ws.transport.abort()
        (server.home / "go").touch()
        for place in (len(got.encode()), 0):
            async with socket(server, {"type": "reconnect", "command_id": name, "stdout_offset": place, "stderr_offset": 0}) as ws:
                said = await frames(ws)
            assert said[0]["type"] == "started"
            assert said[0]["command_id"] == name
            rest = "".join(frame["data"] for frame in said if frame["type"] == "stdout")
            assert next(frame for frame in said if frame["type"] == "stdout")["offset"] == place
            whole = got.encode()[:place].decode() + rest
            assert whole == "".join(f"line {n}" + (" \N{EURO SIGN}" if n <= 200 else "") + "\n" for n in range(1, 401))
        # Asking again for the same starts nothing.
        async with socket(server, command("echo another", command_id=name)) as ws:
            assert "another" not in joined(await frames(ws))
        # Beyond the end there is nothing.
        async with socket(server, {"type": "reconnect", "command_id": name, "stdout_offset": 10**15, "stderr_offset": 10**15}) as ws:
            assert [frame["type"] for frame in await frames(ws)] == ["started", "exit"]

    asyncio.run(talk())


def test_a_kill_and_a_close_at_once_is_a_kill(server):
    async def talk():
        async with socket(server, command("sleep 1000", command_id="killed"), close_timeout=0) as ws:
            assert json.loads(await ws.recv())["type"] == "started"
            await ws.send(json.dumps({"type": "kill"}))
            await ws.close()
        async with socket(server, {"type": "reconnect", "command_id": "killed", "stdout_offset": 0, "stderr_offset": 0}) as ws:
            assert (await frames(ws))[-1] == {"type": "exit", "exit_code": 137}

    asyncio.run(talk())


def test_kill_on_disconnect_and_time_limits(server):
    async def talk():
        async with socket(server, command("sleep 1000", command_id="bound", kill_on_disconnect=True)) as ws:
            pid = json.loads(await ws.recv())["pid"]
            ws.transport.abort()
        assert await asyncio.to_thread(eventually, lambda: not os.path.exists(f"/proc/{pid}"))
        async with socket(server, command("sleep 1000", command_id="idle", idle_timeout_seconds=1)) as ws:
            pid = json.loads(await ws.recv())["pid"]
        assert await asyncio.to_thread(eventually, lambda: not os.path.exists(f"/proc/{pid}"))
        async with socket(server, command("echo before; sleep 1000", timeout_seconds=1)) as ws:
            said = await frames(ws)
        assert joined(said) == "before\n"
        assert said[-1]["type"] == "error"
        assert said[-1]["error_type"] == "CommandTimeout"

    asyncio.run(talk())


def test_what_goes_wrong_is_an_error_frame(server):
    def error(first):
        async def talk():
            async with socket(server, first) as ws:
                said = json.loads(await ws.recv())
                with pytest.raises(websockets.ConnectionClosed):
                    await ws.recv()
                return said, ws.close_code

        return asyncio.run(talk())

    said, code = error({"type": "reconnect", "command_id": "none", "stdout_offset": 0, "stderr_offset": 0})
    assert (said["type"], said["error_type"], code) == ("error", "CommandNotFound", 1000)
    said, code = error(command(["/no/such/program"]))
    assert (said["error_type"], code) == ("CommandError", 1000)
    for first in ({"type": "what"}, command("x", timeout_seconds=-1), [], {"type": "reconnect", "command_id": "x", "stdout_offset": -1}):
        said, code = error(first)
        assert (said["type"], said["error_type"], code) == ("error", "CommandError", 1008)


def test_after_its_ttl_a_command_is_not_found(server):
    async def talk():
        async with socket(server, command("true", command_id="short", ttl_seconds=0)) as ws:
            assert (await frames(ws))[-1]["type"] == "exit"
        async with socket(server, {"type": "reconnect", "command_id": "short", "stdout_offset": 0, "stderr_offset": 0}) as ws:
            assert (await frames(ws))[0]["error_type"] == "CommandNotFound"

    asyncio.run(talk())


def test_a_box_that_closes_ends_what_goes_on_in_it(own_server):
    async def talk():
        async with socket(own_server, command("echo before; sleep 1000")) as ws, httpx.AsyncClient(headers=KEY, timeout=60) as http:
            waiting = asyncio.create_task(http.post(f"{own_server.url}/execute", json={"command": "sleep 1000", "timeout": 0}))
            assert json.loads(await ws.recv())["type"] == "started"
            assert json.loads(await ws.recv())["data"] == "before\n"
            other = await http.post(f"{own_server.url}/execute", json={"command": "until pgrep -fx 'sleep 1000' | tail -n +2 | grep -q .; do sleep 0.05; done", "timeout": 30})
            assert other.status_code == 200
            own_server.close_box()
            assert (await frames(ws))[-1]["error_type"] == "SessionExpired"
            answer = await waiting
            assert answer.json()["detail"]["error"] == "CommandError"
            assert (await http.post(f"{own_server.url}/execute", json={"command": "x"})).status_code == 404

    asyncio.run(talk())


def test_a_client_who_does_not_read_holds_up_only_itself_and_gets_all(server):
    async def talk():
        async with socket(server, command("head -c 20000000 /dev/zero | tr '\\0' x; touch done", command_id="slow"), max_queue=1, ping_interval=None) as ws:
            await ws.recv()
            async with httpx.AsyncClient(headers=KEY, timeout=60) as http:
                for _ in range(20):
                    assert (await http.post(f"{server.url}/execute", json={"command": "echo hi"})).json()["stdout"] == "hi\n"
            assert not (server.home / "done").exists()
            said = await frames(ws)
        assert joined(said) == "x" * 20_000_000

    asyncio.run(talk())


# ---- files


def upload(client, path, content, **more):
    answer = client.post("/upload", params={"path": path}, files={"file": ("file", content, "application/octet-stream")}, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_file_goes_in_and_comes_out(client, server):
    content = os.urandom(3 * MIB) + b"\r\n--\r\n"
    assert upload(client, "new/folders/a file", content) == {"path": f"{server.home}/new/folders/a file", "written": len(content)}
    assert (server.home / "new/folders/a file").read_bytes() == content
    answer = client.get("/download", params={"path": "new/folders/a file"})
    assert answer.content == content
    assert answer.headers["Content-Length"] == str(len(content))
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"].startswith('"')
    assert "GMT" in answer.headers["Last-Modified"]
    head = client.head("/download", params={"path": f"{server.home}/new/folders/a file"})
    assert head.content == b""
    for name in ("Content-Length", "ETag", "Last-Modified"):
        assert head.headers[name] == answer.headers[name]
    assert upload(client, "empty", b"")["written"] == 0
    assert client.get("/download", params={"path": "empty"}).content == b""
    raw = client.post("/upload", params={"path": "raw"}, content=iter([b"a" * 100_000, b"b"]), headers={"Content-Type": "application/octet-stream"})
    assert raw.json()["written"] == 100_001
    assert (server.home / "raw").read_bytes() == b"a" * 100_000 + b"b"
    with requests.post(f"{server.url}/upload", params={"path": "by requests"}, files={"file": ("file", content)}, headers=KEY) as answer:
        assert answer.json()["written"] == len(content)


def test_parts_of_a_file(client, server):
    content = bytes(range(256)) * 4
    upload(client, "parts", content)
    whole = client.get("/download", params={"path": "parts"})
    tag = whole.headers["ETag"]

    def get(method="GET", **fields):
        return client.request(method, "/download", params={"path": "parts"}, headers={name.replace("_", "-"): value for name, value in fields.items()})

    for wanted, place in (("bytes=0-9", slice(0, 10)), ("bytes=1000-", slice(1000, None)), ("bytes=-5", slice(-5, None)), ("bytes=1023-99999999999999999999999", slice(1023, None)), ("bytes=-5000", slice(0, None))):
        answer = get(Range=wanted)
        assert answer.status_code == 206
        assert answer.content == content[place]
        first, last = content.index(content[place]), 1023
        assert answer.headers["Content-Range"].endswith("/1024")
    assert get(Range="bytes=10-19").headers["Content-Range"] == "bytes 10-19/1024"
    for wanted in ("bytes=1024-", "bytes=5000-6000", "bytes=-0"):
        answer = get(Range=wanted)
        assert (answer.status_code, answer.headers["Content-Range"]) == (416, "bytes */1024")
    for wanted in ("bytes=5-1", "bytes=a-b", "lines=0-1", "bytes=0-1,4-5", "bytes=--5", "bytes=-"):
        assert get(Range=wanted).status_code == 200
    assert get(Range="bytes=0-9", If_Range=tag).status_code == 206
    assert get(Range="bytes=0-9", If_Range='"other"').content == content
    assert get(Range="bytes=0-9", If_Range=whole.headers["Last-Modified"]).status_code == 200
    unchanged = get(If_None_Match=f'"x", W/{tag}')
    assert (unchanged.status_code, unchanged.headers["ETag"], unchanged.content) == (304, tag, b"")
    assert get("HEAD", If_None_Match="*").status_code == 304
    assert get(If_Match='"other"').status_code == 412
    assert get("HEAD", Range="bytes=0-9").headers["Content-Length"] == "1024"
    upload(client, "parts", content)
    assert get(If_None_Match=tag).status_code == 200


def test_what_is_wrong_with_a_path_or_a_form(client, server):
    def error(answer):
        return answer.status_code, answer.json()["detail"]["error"]

    form = {"file": ("file", b"x", "application/octet-stream")}
    locked = "/proc/1/environ/x"
    assert error(client.get("/download", params={"path": "none"})) == (404, "FileNotFound")
    assert client.head("/download", params={"path": "none"}).status_code == 404
    assert error(client.get("/download", params={"path": "."})) == (400, "ReadError")
    assert error(client.get("/download", params={"path": "/dev/zero"})) == (400, "ReadError")
    assert error(client.post("/upload", params={"path": "/"}, files=form)) == (400, "WriteError")
    assert error(client.post("/upload", params={"path": locked}, files=form)) == (404, "FileNotFound")
    assert error(client.post("/upload", params={"path": "/sys/x"}, files=form))[0] in (403, 500)
    assert client.get("/download").json()["detail"][0]["loc"] == ["body", "path"]
    assert client.get("/download?path=").status_code == 422
    assert client.get("/download?path=a%00b").status_code == 400
    assert client.get("/download", params={"path": "x" * 5000}).status_code == 422
    assert client.get("/download", params={"path": "a\r\nX-Evil: 1"}).status_code == 404
    assert error(client.post("/upload", params={"path": "no"}, data={"file": "x"})) == (415, "UnsupportedMediaType")
    assert error(client.post("/upload", params={"path": "no"}, files={"other": ("file", b"x")})) == (400, "BadRequest")
    assert error(client.post("/upload", params={"path": "no"}, files=[("file", ("a", b"x")), ("file", ("b", b"y"))])) == (400, "BadRequest")
    cut = client.post("/upload", params={"path": "no"}, content=b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nhalf', headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert error(cut) == (400, "BadRequest")
    assert client.post("/upload", params={"path": "no"}, files=form, headers={"X-Api-Key": "reader"}).status_code == 403
    assert eventually(lambda: not [name for name in os.listdir(server.home) if name.startswith("no")])


def test_readers_may_read(client):
    upload(client, "readable/a", b"hello\n")
    reader = {"X-Api-Key": "reader"}
    assert client.get("/download", params={"path": "readable/a"}, headers=reader).content == b"hello\n"
    assert len(client.post("/glob", json={"pattern": "*", "path": "readable"}, headers=reader).json()["matches"]) == 1
    assert len(client.post("/grep", json={"pattern": "hell", "path": "readable"}, headers=reader).json()["matches"]) == 1


def test_an_upload_that_breaks_off_leaves_nothing(client, server):
    class Broken(Exception):
        pass

    def content():
        yield b"x" * MIB
        raise Broken

    with pytest.raises(Broken):
        client.post("/upload", params={"path": "broken"}, content=content(), headers={"Content-Type": "application/octet-stream"})
    assert eventually(lambda: not [name for name in os.listdir(server.home) if name.startswith("broken")])


def test_a_file_that_changes_while_it_is_read_is_cut_off(client, server):
    path = server.home / "changing"
    path.write_bytes(b"a" * 30 * MIB)
    with pytest.raises(httpx.RemoteProtocolError), client.stream("GET", "/download", params={"path": "changing"}) as answer:
        for n, _ in enumerate(answer.iter_raw()):
            if n == 0:
                path.write_bytes(b"b" * 30 * MIB)


def test_large_files_stream_through_flat_memory(client, server):
    size = 200 * MIB
    with open(server.home / "large", "wb") as file:
        file.truncate(size)

    def resident():
        return int(pathlib.Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * 4096

    before = resident()
    with client.stream("GET", "/download", params={"path": "large"}) as answer:
        assert sum(len(piece) for piece in answer.iter_raw()) == size
    with open(server.home / "large", "rb") as file:
        assert upload(client, "large2", file)["written"] == size
    assert (server.home / "large2").stat().st_size == size
    if "san" not in str(BUILD):
        assert resident() < before + 24 * MIB


def test_what_there_is(client, server):
    for name in ("search/a.py", "search/deep/b.py", "search/deep/c.txt"):
        upload(client, name, b"one\ntwo needle\n")
    found = client.post("/glob", json={"pattern": "**/*.py", "path": "search"}).json()
    assert [match["path"] for match in found["matches"]] == [f"{server.home}/search/a.py", f"{server.home}/search/deep/b.py"]
    assert found["truncated"] is False
    assert found["matches"][0].keys() == {"path", "is_dir", "size_bytes", "modified_at"}
    assert found["matches"][0]["size_bytes"] == 15
    listed = client.post("/glob", json={"pattern": "*", "path": f"{server.home}/search", "limit": 1}).json()
    assert (len(listed["matches"]), listed["truncated"]) == (1, True)
    lines = client.post("/grep", json={"pattern": "needle", "path": "search", "glob": "*.py"}).json()
    assert lines == {"matches": [{"path": f"{server.home}/search/{name}", "line": 2, "text": "two needle"} for name in ("a.py", "deep/b.py")], "truncated": False}
    assert client.post("/glob", json={"pattern": "*", "path": "search/none"}).status_code == 404
    for body in ({}, {"pattern": ""}, {"pattern": "*", "limit": 0}, {"pattern": "*", "limit": -1}, {"pattern": "a\0b"}, {"pattern": 1}, {"pattern": "*", "limit": 1e30}):
        assert client.post("/glob", json=body).status_code == 422, body
        assert client.post("/grep", json=body).status_code == 422, body


# ---- server-sent events


def events(client, path, body):
    """Events up to the end of the answer."""
    with client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["Content-Type"] == "text/event-stream"
        text = "".join(answer.iter_text())
    for block in text.split("\n\n"):
        if block.startswith("event: "):
            name, data = block.split("\n")
            yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def test_events_of_a_command(client):
    said = list(events(client, "/execute/stream/start", {"command": "printf 'a\\xff'; echo err >&2; cat; exit 3", "command_id": "sse", "timeout_seconds": 0}))
    assert said[0][0] == "started"
    assert said[0][1]["command_id"] == "sse"
    assert ("stdout", {"offset": 0, "data": base64.b64encode(b"a\xff").decode()}) in said
    assert ("stderr", {"offset": 0, "data": base64.b64encode(b"err\n").decode()}) in said
    assert ("stream_end", {"stream": "stdout", "offset": 2}) in said
    assert said[-1] == ("exit", {"exit_code": 3})
    again = list(events(client, "/execute/stream/resume", {"command_id": "sse", "stdout_offset": 1, "stderr_offset": 4}))
    assert ("stdout", {"offset": 1, "data": base64.b64encode(b"\xff").decode()}) in again
    assert not [name for name, _ in again if name == "stderr"]
    assert client.post("/execute/stream/resume", json={"command_id": "none"}).status_code == 404
    assert client.post("/execute/stream/start", json={"command": 1}).status_code == 422
    failed = list(events(client, "/execute/stream/start", {"command": "sleep 100", "timeout_seconds": 1}))
    assert (failed[-1][0], failed[-1][1]["error_type"]) == ("error", "CommandTimeout")


def test_much_output_is_acknowledged_in_between(client):
    size = 20_000_000
    got, body, path = b"", {"command": f"head -c {size} /dev/urandom | tee random", "command_id": "much"}, "/execute/stream/start"
    answers = 0
    while True:
        answers += 1
        for name, data in events(client, path, body):
            if name == "stdout":
                assert data["offset"] == len(got)
                got += base64.b64decode(data["data"])
        if name == "exit":
            break
        assert name == "ack_required"
        assert data == {"stdout_offset": len(got), "stderr_offset": 0}
        body, path = {"command_id": "much", **data}, "/execute/stream/resume"
    assert answers > 1
    assert len(got) == size
    assert client.get("/download", params={"path": "random"}).content == got


def test_a_reader_of_events_who_goes_is_no_viewer_any_more(client):
    with client.stream("POST", "/execute/stream/start", json={"command": "echo hi; sleep 1000", "command_id": "left", "idle_timeout_seconds": 1}) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            if "event: stdout" in text:
                break
    started = next(block for block in text.split("\n\n") if block.startswith("event: started"))
    pid = json.loads(started.split("data: ")[1])["pid"]
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}"))
    again = list(events(client, "/execute/stream/resume", {"command_id": "left", "stdout_offset": 3, "stderr_offset": 0}))
    assert again[-1] == ("exit", {"exit_code": 137})
