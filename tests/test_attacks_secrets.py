"""Where a secret could be found besides at its origin: processes, dumps, files, messages (docs/security.md 10, 41, 77-82).

Every place is searched with a positive control: the same look at a process that hides nothing finds its canary.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

import kit
from attacks_support import PYTHON, Canary, Origin, Sandbox, eventually
from clients_support import become, ordinary_user

API = "api.example.test"


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[API])
    yield started
    started.stop()


def own(place, entry):
    """An account that is not root runs postern: the directory and a readable copy of the origins' CA are its own."""
    for path in (place, *place.rglob("*")):
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


@pytest.fixture
def as_user(place, authority, origin):
    """(sandbox of an ordinary user, the words to do something as that user, the canary)"""
    entry = ordinary_user()
    copied = kit.Authority.__new__(kit.Authority)
    copied.file = place / "origin-ca.pem"
    shutil.copy(authority.file, copied.file)
    postern = kit.Postern(place, copied).at(API, origin.port)
    postern.state.mkdir()
    key = Canary()
    if os.geteuid() == 0:
        # What arguments() writes must be the user's, too.
        plain = postern.arguments

        def arguments(*words, **more):
            made = plain(*words, **more)
            own(place, entry)
            return made
        postern.arguments = arguments
    sandbox = Sandbox(postern, kit.header_rule(API), {"KEY": key}, prefix=become(entry), canaries=[key], env={"HOME": str(place), "UNUSED": "1"})
    assert sandbox.get(API).statuses == [200]
    assert origin.requests[-1].fields["authorization"] == [f"Bearer {key}"]
    yield sandbox, become(entry), key
    sandbox.end()


PEEK = """
import ctypes, os, sys
pid, seen = int(sys.argv[1]), {}
def look(name, read):
    try: seen[name] = read()
    except OSError as error: seen[name] = type(error).__name__
def memory():
    with open(f'/proc/{pid}/maps') as maps, open(f'/proc/{pid}/mem', 'rb') as mem:
        for line in maps:
            if 'r' not in line.split()[1] or '[v' in line: continue
            start, end = (int(part, 16) for part in line.split()[0].split('-'))
            try:
                mem.seek(start); found = sys.argv[2][::-1].encode() in mem.read(end - start)
            except OSError: continue
            if found: return 'canary'
    return 'read'
def attach():
    libc = ctypes.CDLL(None, use_errno=True)
    # PTRACE_SEIZE needs the same right as PTRACE_ATTACH, and does not leave the other stopped.
    if libc.ptrace(0x4206, pid, None, None) == -1: raise OSError(ctypes.get_errno(), 'ptrace')
    return 'attached'
def steal():
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.syscall(434, pid, 0)
    got = libc.syscall(438, handle, 1, 0)
    if got < 0: raise OSError(ctypes.get_errno(), 'pidfd_getfd')
    return 'stolen'
def enter():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(os.open(f'/proc/{pid}/ns/net', os.O_RDONLY), 0) == -1: raise OSError(ctypes.get_errno(), 'setns')
    return 'entered'
def environment():
    with open(f'/proc/{pid}/environ', 'rb') as file: data = file.read()
    return 'canary' if sys.argv[2][::-1].encode() in data else 'read'
look('environ', environment)
look('mem', memory)
look('fd', lambda: str(len(os.listdir(f'/proc/{pid}/fd'))) and 'listed')
look('exe', lambda: os.readlink(f'/proc/{pid}/exe') and 'read')
look('cwd', lambda: os.readlink(f'/proc/{pid}/cwd') and 'read')
look('pidfd_getfd', steal)
look('setns', enter)
look('ptrace', attach)
import json; print(json.dumps(seen))
"""


def peek(pid, canary, prefix):
    done = subprocess.run([*prefix, PYTHON, "-c", PEEK, str(pid), str(canary)[::-1]], capture_output=True, text=True, check=True, cwd="/")
    return json.loads(done.stdout)


def test_another_process_of_the_same_user_cannot_look_into_postern(as_user):
    sandbox, prefix, key = as_user
    open_process = subprocess.Popen([*prefix, PYTHON, "-c", "import sys; sys.stdin.read()"], env={"KEY": str(key), "PATH": "/usr/bin:/bin"},
                                    stdin=subprocess.PIPE, cwd="/")
    try:
        assert eventually(lambda: b"python3" in pathlib.Path(f"/proc/{open_process.pid}/cmdline").read_bytes().split(b"\0")[0])
        control = peek(open_process.pid, key, prefix)
    finally:
        open_process.kill()  # It may still be stopped from having been attached to.
        open_process.communicate()
    assert (control["environ"], control["mem"], control["fd"], control["ptrace"]) == ("canary", "canary", "listed", "attached"), control
    assert set(peek(sandbox.process.pid, key, prefix).values()) == {"PermissionError"}
    sandbox.check_alive()
    sandbox.check_secrecy()


def test_no_command_line_and_no_environment_on_the_machine_shows_the_secret(as_user):
    sandbox, _, key = as_user
    shown = subprocess.run(["ps", "-eo", "args", "ewwww"], capture_output=True, check=True).stdout
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            for name in ("cmdline", "environ", "comm", "status"):
                try:
                    shown += (entry / name).read_bytes()
                except OSError:
                    pass
    assert str(sandbox.process.pid).encode() in shown and b"--secret" in shown
    assert not key.found_in(shown)


def test_the_program_cannot_touch_postern_or_its_helpers(as_user):
    """From inside, the processes outside do not exist; by number, all that can be tried is refused."""
    sandbox, _, key = as_user
    seen = sandbox.python(f"""
import os, ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
def tried(value): return 'done' if value >= 0 else errno.errorcode[ctypes.get_errno()]
result = {{'proc': os.path.exists('/proc/{sandbox.process.pid}'), 'kill': tried(libc.kill({sandbox.process.pid}, 0)),
          'ptrace': tried(libc.ptrace(16, {sandbox.process.pid}, 0, 0)), 'pidfd': tried(libc.syscall(434, {sandbox.process.pid}, 0))}}
""")
    # A number that means a process of the sandbox itself would make this say nothing.
    assert seen.pop("proc") is False
    assert set(seen.values()) == {"ESRCH"}, seen


def ends_with_a_core(words, place, number, **popen):
    """(status, whether the kernel wrote a core, what the new files in `place` hold)"""
    before = set(place.rglob("*"))
    process = subprocess.Popen(["bash", "-c", 'ulimit -c unlimited; exec "$@"', "bash", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, **popen)
    assert process.stdout.readline() == b"ready\n"
    os.kill(process.pid, number)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = status
    held = b"".join(path.read_bytes() for path in set(place.rglob("*")) - before if path.is_file())
    return status, os.WCOREDUMP(status), held


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGSYS])
def test_a_crash_leaves_no_dump(place, authority, origin, number):
    key = Canary()
    postern = kit.Postern(place, authority).at(API, origin.port)
    code = "import subprocess, sys; subprocess.run(['curl', '-sS', 'https://api.example.test/'], stdout=subprocess.DEVNULL); print('ready', flush=True); sys.stdin.read()"
    status, dumped, held = ends_with_a_core([PYTHON, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"], place, number, cwd=postern.work,
                                            env={"CANARY": str(key), "PATH": "/usr/bin:/bin"})
    # The positive control: this machine does write cores, and (where they are files in the working directory) they hold the canary.
    assert os.WTERMSIG(status) == number and dumped
    if not pathlib.Path("/proc/sys/kernel/core_pattern").read_text().startswith(("|", "/")):
        assert key.found_in(held)
        for path in postern.work.iterdir():
            path.unlink()
    words, log = postern.arguments(PYTHON, "-c", code, policy=kit.header_rule(API), secrets={"KEY": key})
    status, dumped, held = ends_with_a_core(words, place, number, cwd=postern.work, env=postern.environment())
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == number and not dumped
    assert origin.requests[-1].fields["authorization"] == [f"Bearer {key}"]
    assert not key.found_in(held)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_run_shows_nothing(place, authority, origin, number):
    key = Canary()
    postern = kit.Postern(place, authority).at(API, origin.port)
    process, log = postern.start(PYTHON, "-c", "import subprocess, signal; subprocess.run(['curl', '-sS', 'https://api.example.test/']); print('ready', flush=True); signal.pause()",
                                 policy=kit.header_rule(API), secrets={"KEY": key})
    assert process.stdout.readline().endswith("ready\n")
    os.kill(process.pid, number)
    out, error = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert not key.found_in(out + error + log.read_text())
    assert not [path for path in postern.work.iterdir() if path.name.startswith("core")]


@pytest.mark.parametrize("bad", ["a\r\nX-Evil: b", "a\nb", "a\rb", "\na", "a\n"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_secret_that_would_split_a_head_is_refused_at_the_start_without_quoting_it(place, authority, origin, bad, way):
    key = Canary()
    postern = kit.Postern(place, authority).at(API, origin.port)
    value = bad.replace("a", f"a{key}", 1)
    more = {"secrets": {"KEY": value}} if way == "argument" else {"options": ["--secret", "KEY"], "env": {"KEY": value}}
    run = postern.run("sh", "-c", "echo started", policy=kit.header_rule(API), **more)
    assert run.status == 125 and run.stdout == "" and "KEY" in run.stderr
    assert not key.found_in(run.stderr + run.log_text) and origin.connections == 0
    good = postern.run("curl", "-sS", f"https://{API}/", policy=kit.header_rule(API), secrets={"KEY": str(key)})
    assert good.stdout == "ok" and origin.requests[-1].fields["authorization"] == [f"Bearer {key}"]


def test_a_message_about_a_broken_policy_does_not_quote_the_credential_in_it(place, authority):
    key = Canary()
    postern = kit.Postern(place, authority)
    for value in (f"Bearer {key}{{", f"Bearer {{{key}}}"):
        run = postern.run("true", policy=kit.header_rule(API, value=value), secrets={"KEY": "x" * 20})
        assert run.status == 125 and run.stderr
        assert not key.found_in(run.stderr + run.stdout)
    opaque = {"rules": [{"name": "r", "match_hosts": [API], "headers": [{"name": "Authorization", "type": "opaque", "value": f"{key}\r\nX: y"}]}]}
    run = postern.run("true", policy=opaque)
    assert run.status == 125 and not key.found_in(run.stderr + run.stdout)


@pytest.mark.parametrize("bad", ["no such file", "unknown option", "no such command", "not a network", "verbose"])
def test_no_error_message_holds_the_secret(place, authority, bad):
    key = Canary()
    postern = kit.Postern(place, authority)
    command = ["/no/such/program"] if bad == "no such command" else ["true"]
    options = {"no such file": ["--origin-ca", "/no/such/file"], "unknown option": ["--no-such-option"], "not a network": ["--allow-private", "x/99"],
               "verbose": ["-v"]}.get(bad, [])
    run = postern.run(*command, policy=kit.header_rule(API), secrets={"KEY": key}, options=options)
    assert run.status in (0, 125, 127)
    assert not key.found_in(run.stderr + run.stdout + run.log_text)


def test_query_values_and_credentials_of_a_request_are_not_logged(place, authority, origin):
    own_key, key = Canary(), Canary()
    postern = kit.Postern(place, authority).at(API, origin.port)
    run = postern.run("curl", "-sS", "-H", f"Cookie: {own_key}", "-H", f"X-Own: {own_key}", "-d", str(own_key),
                      f"https://{API}/path?api_key={own_key.value.replace('+', '%2B').replace(chr(34), '%22')}",
                      policy=kit.header_rule(API), secrets={"KEY": key})
    assert run.stdout == "ok" and own_key.found_in(origin.requests[-1].head)
    assert run.record(host=API)["path"] == "/path"
    assert not own_key.found_in(run.log_text + run.stderr) and not key.found_in(run.log_text + run.stderr)


def test_when_postern_is_killed_nothing_leaves(place, authority, origin):
    key = Canary()
    postern = kit.Postern(place, authority).at(API, origin.port)
    sandbox = Sandbox(postern, kit.header_rule(API), {"KEY": key}, canaries=[key])
    assert sandbox.get(API).statuses == [200]
    children = subprocess.run(["pgrep", "-P", str(sandbox.process.pid)], capture_output=True, text=True).stdout.split()
    assert children
    # A writer that goes on by itself: were it alive afterwards, its file would grow.
    sandbox.python("""
import subprocess
subprocess.Popen(['setsid', '/usr/bin/python3', '-c', '''
import socket, time, ssl
while True:
    try: socket.create_connection(("203.0.113.9", 443), 1).close()
    except OSError: pass
    open("beat", "a").write("x")
    time.sleep(0.01)
'''])""")
    beat = postern.work / "beat"
    assert eventually(lambda: beat.exists() and beat.stat().st_size > 3)
    os.kill(sandbox.process.pid, signal.SIGKILL)
    sandbox.process.wait()
    assert eventually(lambda: not any(pathlib.Path(f"/proc/{child}").exists() for child in children))
    requests = len(origin.requests)

    def still():
        size = beat.stat().st_size
        subprocess.run(["sleep", "0.2"], check=True)
        return beat.stat().st_size == size
    assert eventually(still) and len(origin.requests) == requests


def test_a_secret_that_changes_is_used_from_then_on_and_a_broken_one_replaces_nothing(place, authority, origin):
    old, new = Canary(), Canary()
    file = place / "key.txt"
    file.write_text(f"{old}\n")
    postern = kit.Postern(place, authority).at(API, origin.port)
    sandbox = Sandbox(postern, kit.header_rule(API), {"KEY": f"file:{file}"}, canaries=[old, new])
    sent = lambda: (sandbox.honest(API), origin.requests[-1].fields["authorization"])[1]
    assert sent() == [f"Bearer {old}"]
    assert sandbox.python(f"import os; result = os.path.exists({str(file)!r}) and open({str(file)!r}).read()") in (False, "")
    file.write_text(f"{new}\n")
    assert eventually(lambda: sent() == [f"Bearer {new}"])
    file.write_text("")
    assert eventually(lambda: any("the secrets stay as they were" in line for line in sandbox.stderr))
    assert sent() == [f"Bearer {new}"]
    file.unlink()
    assert eventually(lambda: sum("the secrets stay as they were" in line for line in sandbox.stderr) == 2)
    assert sent() == [f"Bearer {new}"]
    file.write_text(f"{old}\n")
    assert eventually(lambda: sent() == [f"Bearer {old}"])
    sandbox.end()
