"""A server that is killed at any moment, with much going on: what it acknowledged holds, and nothing of it stays behind.

POSTERN_CHAOS_KILLS says how often (default: 30).
"""

import http.client
import os
import pathlib
import random
import threading
import time
import urllib.error

from attacks_support import eventually
from serve_support import ACCOUNTS, Server
from test_serve_attacks import family

KILLS = int(os.environ.get("POSTERN_CHAOS_KILLS", "30"))
CALLERS = 4


class Caller:
    """Has boxes of its own, and remembers what it was told about them."""

    def __init__(self, server, number):
        self.server, self.number, self.count = server, number, 0
        self.boxes = {}  # name -> the description of its policy that was acknowledged
        self.deleted = set()
        self.unsure = set()  # What was on its way when the server went.
        self.wrong = []

    def call(self, name, method, path, body=None):
        try:
            return self.server.call(method, path, body)
        except (OSError, http.client.HTTPException, urllib.error.URLError):
            self.unsure.add(name)
            raise ConnectionError from None

    def step(self, dice):
        certain = [name for name in self.boxes if name not in self.unsure]
        what = dice.choice(["create", "run", "patch", "patch", "delete"]) if len(certain) > 1 else "create"
        if what == "create":
            self.count += 1
            name, word = f"box-{self.number}-{self.count}", f"word {self.count}"
            status, box = self.call(name, "POST", "/boxes", {"name": name, "proxy_config": {"description": word}})
            if status == 201:
                self.boxes[name] = word
            else:
                self.wrong.append((what, status, box))
            return
        name = dice.choice(certain)
        if what == "run":
            status, answer = self.call(name, "POST", f"/{name}/execute", {"command": "echo hello"})
            self.unsure.discard(name)
        elif what == "patch":
            self.count += 1
            status, answer = self.call(name, "PATCH", f"/boxes/{name}", {"proxy_config": {"description": f"word {self.count}"}})
            if status == 200:
                self.boxes[name] = f"word {self.count}"
        else:
            status, answer = self.call(name, "DELETE", f"/boxes/{name}")
            if status == 204:
                del self.boxes[name]
                self.deleted.add(name)
        if status >= 400:
            self.wrong.append((what, name, status, answer))

    def work(self, dice):
        try:
            while True:
                self.step(dice)
        except ConnectionError:
            pass

    def check(self, listed):
        for name, word in self.boxes.items():
            if name in self.unsure:
                continue
            assert name in listed, f"{name} was acknowledged"
            assert listed[name]["proxy_config"]["description"] == word, listed[name]
        assert not self.deleted & listed.keys(), "what was deleted stays so"
        # What was not answered is one or the other; from now on it is known which.
        for name in self.unsure:
            self.boxes.pop(name, None)
            if name in listed and listed[name]["status"] != "deleting":
                self.boxes[name] = listed[name].get("proxy_config", {}).get("description")
        self.unsure.clear()
        assert not self.wrong, self.wrong


def namespaces(pids):
    found = set()
    for pid in pids:
        for kind in ("net", "mnt", "pid", "user"):
            try:
                found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
            except OSError:
                continue
    return found


def pids_before(moment):
    """Of processes that were there at a time of CLOCK_BOOTTIME. Whoever came later may have a new namespace under an old one's number."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            ticks = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[19]) if entry.name.isdigit() else None
        except OSError:
            continue
        if ticks is not None and ticks / os.sysconf("SC_CLK_TCK") <= moment:
            found.append(int(entry.name))
    return found


def test_nothing_is_lost_and_nothing_stays_when_the_server_is_killed(place):
    place.chmod(0o755)
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    server = Server(place, account=ACCOUNTS[-1]).start()
    host = namespaces([os.getpid()])
    callers = [Caller(server, number) for number in range(CALLERS)]
    try:
        began = time.monotonic()
        assert server.call("POST", "/boxes", {"name": "first"})[0] == 201
        span = max(0.8, 4 * (time.monotonic() - began))  # On a busy machine, too, there is something to be killed.
        for kill in range(KILLS):
            threads = [threading.Thread(target=caller.work, args=(random.Random(dice.random()),)) for caller in callers]
            for thread in threads:
                thread.start()
            time.sleep(dice.uniform(0, span))  # The moment is what is tested; nothing is waited for.
            processes = family(server.process.pid)
            theirs = namespaces(processes) - host
            moment = time.clock_gettime(time.CLOCK_BOOTTIME)
            server.kill()
            for thread in threads:
                thread.join()
            left = eventually(lambda: not [pid for pid in processes if pathlib.Path(f"/proc/{pid}").exists() and namespaces([pid])])
            assert left, f"processes stay behind the {kill}th kill"
            assert eventually(lambda: not theirs & namespaces(pids_before(moment))), "namespaces stay"
            server.start()
            status, page = server.call("GET", "/boxes?limit=500")
            assert status == 200
            listed = {box["name"]: box for box in page["sandboxes"]}
            assert {box["status"] for box in listed.values()} <= {"stopped"}, "none runs any more"
            for caller in callers:
                caller.check(listed)
        for name in list(callers[0].boxes)[:3]:
            status, answer = server.call("POST", f"/{name}/execute", {"command": "echo hello"})
            assert status == 200 and answer["stdout"] == "hello\n", answer
        mounts = pathlib.Path("/proc/self/mounts").read_text()
        assert str(server.data) not in mounts
        kept = {box["id"] for box in server.call("GET", "/boxes?limit=500")[1]["sandboxes"]}
        assert {entry.name for entry in (server.data / "boxes").iterdir()} <= kept, "directories without a box stay"
        assert eventually(lambda: not list((server.data / "trash").iterdir()))
        assert sum(len(caller.deleted) for caller in callers) >= KILLS / 3, "something was going on"
    finally:
        server.stop()
