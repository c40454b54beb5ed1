"""What a box may use of the machine. What of it can be enforced depends on the host and on who runs the server; the server says it."""

import os
import pathlib
import time

import pytest

from serve_support import Server, server  # noqa: F401

SMALL = {"name": "small", "mem_bytes": 64 << 20, "cpu_millicores": 200}


def run(server, command, timeout=60):
    status, done = server.call("POST", "/small/execute", {"command": command, "timeout": timeout})
    assert status == 200, done
    return done


def groups_of(server):
    data = os.stat(server.data)
    return [found for found in pathlib.Path("/sys/fs/cgroup").rglob(f"postern-{data.st_dev:x}-{data.st_ino:x}")]


def test_a_box_has_its_share_and_no_more(server):
    server.start()
    lacking = server.said()
    assert server.call("POST", "/boxes", SMALL)[0] == 201
    if "memory" not in lacking:
        hungry = run(server, "head -c 300M /dev/zero | tail -c 200M | wc -c; echo $?")
        assert not hungry["stdout"].startswith(str(200 << 20)), hungry
        assert run(server, "echo still here")["stdout"] == "still here\n"
        status, answer = server.call("PATCH", "/boxes/small", {"mem_bytes": 512 << 20})
        assert (status, answer["mem_bytes"]) == (200, 512 << 20)
        assert run(server, "head -c 300M /dev/zero | tail -c 200M | wc -c")["stdout"] == f"{200 << 20}\n"
    if "processors" not in lacking:
        began = time.monotonic()
        used = run(server, "timeout 2 sh -c 'while :; do :; done'; cat /proc/$$/stat | cut -d' ' -f16")["stdout"]
        assert int(used) < 100, used  # hundredths of a second, in two seconds; 40 are allowed
        assert time.monotonic() - began < 60
    # Nobody needs control groups for that, and nobody outside notices.
    assert run(server, "ulimit -u")["stdout"] == "4096\n"
    bomb = run(server, "ulimit -u 100; sh -c 'f() { f | f & }; f' 2>/dev/null; sleep 1; echo over")
    assert bomb["stdout"] == "over\n"
    assert server.call("DELETE", "/boxes/small")[0] == 204
    assert server.stop() == 0
    assert groups_of(server) == []


def test_a_killed_server_leaves_groups_that_the_next_one_takes(place, authority):
    place.chmod(0o755)
    server = Server(place, authority).start()
    assert server.call("POST", "/boxes", SMALL)[0] == 201
    server.kill()
    server.start()
    assert server.call("POST", "/boxes", {**SMALL, "name": "other"})[0] == 201
    assert all(len(list(group.glob("box-*"))) == 1 for group in groups_of(server))
    assert server.stop() == 0
    assert groups_of(server) == []


def test_who_requires_limits_does_not_start_without(place):
    place.chmod(0o755)
    server = Server(place, account="user").start()
    lacking = "cannot be limited" in server.said()
    server.stop()
    if not lacking:  # This host delegates groups to every user.
        server.start("--limits", "required")
        return
    with pytest.raises(AssertionError, match="did not start"):
        server.start("--limits", "required")
    assert server.process.returncode == 1
    assert "control groups" in server.said() and "docs/serve.md#limits" in server.said()


def test_limits_can_be_left_off(place, authority):
    place.chmod(0o755)
    server = Server(place, authority).start("--limits", "off")
    assert server.said() == "" and groups_of(server) == []
    assert server.call("POST", "/boxes", SMALL)[0] == 201
    assert run(server, "head -c 300M /dev/zero | tail -c 200M | wc -c")["stdout"] == f"{200 << 20}\n"
    server.stop()
