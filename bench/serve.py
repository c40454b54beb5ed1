#!/usr/bin/env python3
"""What `postern serve` costs: bench/serve.py [--boxes N] [--json FILE]

Starts a server of its own with a directory of its own, asks it over one keep-alive connection, and ends it. Wall-clock times: run it on a quiet machine.
  create      POST /boxes to the end of the first command in the box
  exec        one command (`true`) in a box that runs
  patch       PATCH of proxy_config to the first request in the box that is judged by it, on a connection that was open before
  idle box    memory of Postern's own processes for each further box, without what they share (Pss), that of the server alone, and that of bubblewrap's processes
"""

import argparse
import http.client
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
POSTERN = ROOT / "build/release/src/postern"


class Server:
    def __init__(self, directory):
        environment = {**os.environ, "POSTERN_STATE_DIR": str(directory)}
        key = pathlib.Path(directory) / "key"
        self.process = subprocess.Popen([POSTERN, "serve", "--listen", "127.0.0.1:0", "--bootstrap-api-key-file", key], env=environment, stdout=subprocess.PIPE, text=True)
        self.host = self.process.stdout.readline().split("//")[1].strip()
        self.process.stdout.readline()
        self.headers = {"X-Api-Key": key.read_text().strip(), "Content-Type": "application/json"}
        self.connection = http.client.HTTPConnection(self.host, timeout=60)

    def ask(self, method, path, body=None):
        self.connection.request(method, "/api/v2/sandboxes" + path, json.dumps(body) if body is not None else None, self.headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return json.loads(text) if text else None

    def run(self, box, command):
        return self.ask("POST", f"/{box}/execute", {"command": command, "timeout": 60})

    def stop(self):
        self.process.terminate()
        self.process.wait(120)


def milliseconds(action):
    begin = time.perf_counter()
    action()
    return (time.perf_counter() - begin) * 1000


def processes_of(server):
    """The server and all below it: keeper, holders, bubblewrap, agents, and what they run."""
    children = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = [], [server.process.pid]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def pss(pid):
    try:
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0


def name_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def memory(server):
    """Of the server, of all of Postern, of bubblewrap: KiB."""
    own = total = bubblewrap = 0
    for pid in processes_of(server):
        size = pss(pid)
        if name_of(pid) == "bwrap":
            bubblewrap += size
            continue
        total += size
        own += size if pid == server.process.pid else 0
    return own, total, bubblewrap


def measure_patch(server, rounds):
    """A client in the box asks in a circle over one connection of plain HTTP until its answer is another."""
    deny, other = ({"access_control": {"allow_list": [name]}} for name in ("one.example.test", "other.example.test"))
    server.ask("POST", "/boxes", {"name": "patched", "proxy_config": deny})
    program = "import http.client, time\nc = http.client.HTTPConnection('denied.example.test', 80, timeout=10)\ndef rule():\n c.request('GET', '/'); return b'other.example.test' in c.getresponse().read()\n" \
              "was = rule()\nopen('/tmp/ready', 'w').write('x')\nwhile rule() == was: pass\nprint(time.time())\n"
    server.run("patched", f"cat > /tmp/p.py <<'EOF'\n{program}EOF")
    taken = []
    for turn in range(rounds):
        server.run("patched", "rm -f /tmp/ready; (python3 /tmp/p.py > /tmp/seen 2>&1 &) ; until [ -e /tmp/ready ]; do :; done")
        server.ask("PATCH", "/boxes/patched", {"proxy_config": deny if turn % 2 else other})
        answered = time.time()
        seen = server.run("patched", "until [ -s /tmp/seen ]; do :; done; cat /tmp/seen")["stdout"]
        taken.append(max(0.0, (float(seen) - answered) * 1000))
    server.ask("DELETE", "/boxes/patched")
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boxes", type=int, default=500, help="idle boxes (default 500)")
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="postern-bench-", dir="/var/tmp")
    server = Server(directory)
    try:
        server.ask("POST", "/boxes", {"name": "warm"})

        def create(number):
            server.ask("POST", "/boxes", {"name": f"b{number}"})
            server.run(f"b{number}", "true")

        creates = []
        for number in range(21):
            creates.append(milliseconds(lambda: create(number)))
            server.ask("DELETE", f"/boxes/b{number}")
        execs = [milliseconds(lambda: server.run("warm", "true")) for _ in range(200)]
        patches = measure_patch(server, 20)
        server_before, before, bubblewrap_before = memory(server)
        for number in range(options.boxes):
            server.ask("POST", "/boxes", {"name": f"idle{number}", "idle_ttl_seconds": 0})
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {options.boxes} idle boxes", end="\n" if number + 1 == options.boxes else "", file=sys.stderr, flush=True)
        server_after, after, bubblewrap_after = memory(server)
        result = {"create_ms": statistics.median(creates), "exec_ms": statistics.median(execs), "patch_max_ms": max(patches),
                  "idle_box_kib": (after - before) / options.boxes, "idle_box_server_kib": (server_after - server_before) / options.boxes,
                  "idle_box_bubblewrap_kib": (bubblewrap_after - bubblewrap_before) / options.boxes}
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)
    for name, value in result.items():
        print(f"{name:22} {value:8.1f}")
    if options.json:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
