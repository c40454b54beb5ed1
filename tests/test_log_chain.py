"""`--log-chain` and `postern log verify`: what is found when somebody was at the log, and what is not."""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

import kit
from attacks_support import Origin, eventually
from clients_support import WAIT
from serve_support import Server, server  # noqa: F401 (fixtures)
from test_network_log import call_out, make_box
from test_network_log import origin as box_origin  # noqa: F401 (fixture)

API = "api.example.test"


@pytest.fixture
def postern(place, authority):
    origin = Origin(authority=authority, names=[API])
    yield kit.Postern(place, authority).at(API, origin.port)
    origin.stop()


def chained(postern, calls=3, log=None, options=()):
    """The log of a run that made so many calls."""
    words, own = postern.arguments("curl", "-sS", *[f"https://{API}/{i}" for i in range(calls)], policy=kit.header_rule(API), secrets={"KEY": "canary-key"},
                                   options=["--log-chain", *options])
    words[words.index("--log") + 1] = str(log or own)
    done = subprocess.run(words, cwd=postern.work, env=postern.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return log or own


def verify(postern, *words, state=True):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "POSTERN_STATE_DIR": str(postern.state if state else postern.directory / "other")}
    return subprocess.run([kit.POSTERN, "log", "verify", *map(str, words)], env=environment, capture_output=True, text=True, timeout=WAIT)


def test_what_was_written_is_good(postern):
    log = chained(postern)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5]
    assert [line.get("event") for line in lines] == ["begin", None, None, None, "end"]
    assert [line.get("path") for line in lines[1:-1]] == ["/0", "/1", "/2"]
    done = verify(postern, log)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == "good: 5 lines, numbers 1 to 5, 1 signature\n"
    chained(postern, log=log)
    assert verify(postern, log).stdout == "good: 10 lines, numbers 1 to 10, 2 signatures\n"


def changed(lines):
    return lines[:2] + [lines[2].replace('"/1"', '"/2"')] + lines[3:]


@pytest.mark.parametrize("attack, at, why", [
    (changed, 3, "it was changed"),
    (lambda lines: lines[:2] + lines[3:], 3, "a line is missing"),
    (lambda lines: lines[:1] + lines[3:], 2, "lines are missing"),
    (lambda lines: lines[1:], 1, "missing in front of it"),
    (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], 2, "missing, or moved"),
    (lambda lines: [*lines[:2], lines[1], *lines[2:]], 3, "moved or put in"),
    (lambda lines: [*lines[:2], '{"time":"2026-01-01T00:00:00.000000Z","host":"evil"}', *lines[2:]], 3, "was changed, or is not of this log"),
    (lambda lines: lines[:4], 4, "1 line cut off"),
    (lambda lines: lines[:2], 2, "3 lines cut off"),
    (lambda lines: [], 0, "no line of a chain"),
], ids=["changed", "removed", "two removed", "first removed", "swapped", "repeated", "inserted", "end cut off", "tail cut off", "emptied"])
def test_what_was_done_to_it_is_named(postern, attack, at, why):
    log = chained(postern)
    lines = log.read_text().splitlines()
    log.write_text("".join(line + "\n" for line in attack(lines)))
    done = verify(postern, log)
    assert done.returncode == 1 and done.stdout.startswith(f"{log}:{at}: ") and why in done.stdout, done.stdout
    log.write_text("".join(line + "\n" for line in lines))
    assert verify(postern, log).returncode == 0


def test_who_has_the_log_alone_cannot_write_it_anew(postern, tmp_path):
    log = chained(postern)
    # The same calls, chained and signed by somebody else.
    (tmp_path / "thief").mkdir()
    thief = kit.Postern(tmp_path / "thief", postern.authority)
    thief.work, thief.resolve = postern.work, postern.resolve
    forged = chained(thief, log=postern.directory / "forged.jsonl")
    assert verify(thief, forged).returncode == 0
    shutil.copy(forged, log)
    done = verify(postern, log)
    assert done.returncode == 1 and "signed with another key" in done.stdout
    assert verify(postern, log, "--without-key").returncode == 0  # As it says: anybody can make hashes.


def test_the_public_key_is_enough_but_for_what_was_cut_off(postern, tmp_path):
    log = chained(postern)
    key = tmp_path / "log.jwk"
    shutil.copy(postern.state / "log-chain/log.jwk", key)
    assert set(json.loads(key.read_text())) == {"kty", "crv", "x", "alg", "use", "kid"}
    assert verify(postern, log, "--key", key, state=False).returncode == 0
    missing = verify(postern, log, state=False)
    assert missing.returncode == 2 and "no key to check the signatures with" in missing.stderr
    lines = log.read_text().splitlines()
    log.write_text("".join(line + "\n" for line in changed(lines)))
    assert verify(postern, log, "--key", key, state=False).returncode == 1
    # Only who knows how far it was signed misses the end; to others it looks like a log that is being written.
    log.write_text("".join(line + "\n" for line in lines[:-2]))
    done = verify(postern, log, "--key", key, state=False)
    assert done.returncode == 0 and "not signed yet" in done.stdout and "still being written" in done.stdout
    assert verify(postern, log).returncode == 1


def test_a_run_that_is_killed_leaves_a_log_that_goes_on(postern):
    words, log = postern.arguments("sh", "-c", f"curl -sS https://{API}/first; echo done; exec sleep 60", policy=kit.header_rule(API), secrets={"KEY": "canary-key"},
                                   options=["--log-chain"])
    process = subprocess.Popen(words, cwd=postern.work, env=postern.environment(), stdout=subprocess.PIPE, text=True)
    assert "done" in process.stdout.readline()
    assert eventually(lambda: '"/first"' in log.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT)
    process.stdout.close()
    with open(log, "a") as file:
        file.write('{"time":"2026-')  # What a kill in the middle of a write leaves.
    done = verify(postern, log)
    assert done.returncode == 0 and "The last line has no end" in done.stdout and "whoever wrote it was killed" in done.stdout
    chained(postern, log=log)
    done = verify(postern, log)
    assert done.returncode == 0 and "has no end" not in done.stdout
    events = [json.loads(line).get("event") for line in log.read_text().splitlines()]
    assert events[0] == "begin" and "continue" in events and events[-1] == "end"


def test_signed_lines_that_were_cut_off_are_missed_when_it_goes_on(postern):
    log = chained(postern)
    log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[:-2]))
    words, own = postern.arguments("true", policy=kit.header_rule(API), secrets={"KEY": "canary-key"}, options=["--log-chain"])
    words[words.index("--log") + 1] = str(log)
    done = subprocess.run(words, cwd=postern.work, env=postern.environment(), capture_output=True, text=True, timeout=60)
    assert "2 lines at its end are missing that were signed" in done.stderr
    chained(postern, log=log)
    done = verify(postern, log)
    assert done.returncode == 1 and "2 signed lines in front of it were gone" in done.stdout


def test_a_run_turns_its_log_over_when_it_starts_and_shows_none_of_it(postern):
    log = postern.work / "calls.jsonl"
    options = ["--log-rotate-bytes", 4096, "--log-rotate-keep", 2]
    for _ in range(4):
        chained(postern, calls=6, log=log, options=options)
    files = [log.with_name(log.name + ".2"), log.with_name(log.name + ".1"), log]
    assert all(file.exists() for file in files) and not log.with_name(log.name + ".3").exists()
    done = verify(postern, *files)
    assert done.returncode == 0 and "What was before line" in done.stdout, done.stdout
    assert verify(postern, files[0], files[2]).returncode == 1
    assert verify(postern, files[0]).returncode == 1 and verify(postern, files[0], "--part").returncode == 0
    words, _ = postern.arguments("sh", "-c", "cat calls.jsonl*; ls", options=["--log-chain", *options])
    words[words.index("--log") + 1] = str(log)
    seen = subprocess.run(words, cwd=postern.work, env=postern.environment(), capture_output=True, text=True, timeout=60)
    assert seen.stdout and API not in seen.stdout, seen.stdout


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_a_server_turns_over_and_opens_again(server, box_origin):
    server.at(API, box_origin.port).start("--log-chain", "--log-rotate-bytes", 4096, "--log-rotate-keep", 50)
    box = make_box(server, "first")
    log = server.directory / "network.jsonl"
    earlier = log.with_name(log.name + ".1")
    for number in range(100):
        call_out(server, box, f"/{number}")
        if earlier.exists():
            break
    assert eventually(earlier.exists)
    moved = server.directory / "moved.jsonl"
    log.rename(moved)
    os.kill(server.process.pid, signal.SIGHUP)
    eventually(lambda: call_out(server, box, "/again") and log.exists())
    assert server.stop() == 0
    turned = sorted(server.directory.glob("network.jsonl.*"), key=lambda file: -int(file.suffix[1:]))
    chain = server.data / "log-chain"
    environment = {"PATH": os.environ["PATH"], "POSTERN_STATE_DIR": str(server.directory / "state")}
    done = subprocess.run([kit.POSTERN, "log", "verify", *turned, moved, log], env=environment, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"good: \d+ lines, numbers 1 to", done.stdout) and (chain / "log.pem").stat().st_mode & 0o777 == 0o600
    paths = [json.loads(line).get("path") for file in [*turned, moved, log] for line in file.read_text().splitlines()]
    assert [path for path in paths if path in ("/0", "/again")][:1] == ["/0"] and "/again" in paths
