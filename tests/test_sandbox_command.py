"""`postern sandbox`, `policy` and `secret` against a real server, and against servers that mean harm."""

import base64
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import termios
import threading
import types

import pytest

import kit
from attacks_support import eventually
from clients_support import WAIT
from serve_support import Server, server  # noqa: F401 (fixtures)
from test_network_log import API, call_out, origin  # noqa: F401 (fixtures)
from test_sandbox_terminal import Terminal

POLICY = """\
rules:
  - name: api
    match_hosts: [api.example.test]
    headers:
      - {name: X-Key, type: opaque, value: canary-opaque}
access_control:
  allow_list: [api.example.test]
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One server for what changes nothing in it."""
    directory = tmp_path_factory.mktemp("serve")
    made = Server(directory).start()
    made.call("POST", "/boxes", {"name": "box"})
    yield made
    made.stop()


def environment(server, **more):
    return {"PATH": os.environ["PATH"], "HOME": "/", "POSTERN_URL": server.url, "POSTERN_API_KEY": server.key or "", **more}


def postern(server, *words, input=None, env=None, text=True):
    stdin = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
    return subprocess.run([kit.POSTERN, *map(str, words)], env=environment(server, **(env or {})), capture_output=True, text=text, timeout=60, **stdin)


def good(server, *words, **more):
    done = postern(server, *words, **more)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def harmless(text):
    return all(c == "\n" or " " <= c <= "~" for c in text)


# ---- sandboxes ---------------------------------------------------------------------------------------------


def test_the_life_of_a_sandbox(server, place):
    server.start()
    (place / "policy.yaml").write_text(POLICY)
    assert good(server, "sandbox", "create", "first", "--policy", place / "policy.yaml", "--label", "team=a", "--env", "A=1", "--env", "FROM_HERE", "--idle-ttl", "20m",
                env={"FROM_HERE": "here"}) == "first\n"
    named = good(server, "sandbox", "create").strip()
    made = json.loads(good(server, "sandbox", "create", "third", "--json", "--idle-ttl", "0"))
    assert made["name"] == "third" and made["idle_ttl_seconds"] == 0

    lines = good(server, "sandbox", "list").splitlines()
    assert lines[0].split() == ["NAME", "STATUS", "CREATED", "IDLE", "LABELS"] and [line.split()[0] for line in lines[1:]] == ["third", named, "first"]
    assert lines[3].split()[1] == "ready" and lines[3].split()[3:] == ["20m", "team=a"] and lines[1].split()[3] == "never"
    assert [json.loads(line)["name"] for line in good(server, "sandbox", "list", "--json", "--label", "team=a").splitlines()] == ["first"]
    assert good(server, "sandbox", "list", "--status", "stopped").splitlines() == ["NAME  STATUS  CREATED  IDLE  LABELS"]
    assert len(good(server, "sandbox", "list", "--limit", "2", "--json").splitlines()) == 2
    assert json.loads(good(server, "sandbox", "list", "--contains", "ird", "--json"))["name"] == "third"

    shown = good(server, "sandbox", "show", "first")
    assert re.search(r"^status +ready$", shown, re.M) and "labels     team=a" in shown and "is_set: true" in shown and "canary" not in shown
    box = json.loads(good(server, "sandbox", "show", "first", "--json"))
    assert box == server.call("GET", "/boxes/first")[1]
    assert good(server, "sandbox", "exec", box["id"], "--", "sh", "-c", "echo $A $FROM_HERE") == "1 here\n"

    assert good(server, "sandbox", "stop", "first", "third") == ""
    assert {box["status"] for box in server.call("GET", "/boxes?label=team%3Da")[1]["items"]} == {"stopped"}
    assert good(server, "sandbox", "start", "first") == ""
    assert server.call("GET", "/boxes/first/status")[1]["status"] == "ready"
    done = postern(server, "sandbox", "rm", "first", "none", named)
    assert done.returncode == 1 and re.fullmatch(r"postern: none: the server refuses: .*\n", done.stderr), done.stderr
    assert [box["name"] for box in server.call("GET", "/boxes")[1]["items"]] == ["third"]


def test_what_it_reached_is_in_its_log(shared):
    shared.call("POST", "/boxes", {"name": "logged", "proxy_config": {"access_control": {"allow_list": []}}})
    call_out(shared, "logged", host="denied.invalid")
    assert eventually(lambda: json.loads(good(shared, "sandbox", "logs", "logged", "--json").splitlines()[0])["host"] == "denied.invalid")
    assert good(shared, "sandbox", "logs", "logged", "--denied") == good(shared, "log", "--sandbox", "logged") != ""
    assert good(shared, "sandbox", "logs", "box") == ""


@pytest.mark.parametrize("words, status, complaint", [
    (["sandbox"], 2, "postern sandbox: a command is required (accepted: create, list, exec, "),
    (["sandbox", "lst"], 2, "postern sandbox: 'lst' is not a command (accepted: create, list, exec, "),
    (["sandbox", "show"], 2, "postern sandbox show: NAME is required\nHelp: postern sandbox show --help\n"),
    (["sandbox", "show", "none"], 1, "postern: the server refuses: "),
    (["sandbox", "create", "x", "--idle-ttl", "long"], 2, "postern: --idle-ttl must be like 90s"),
    (["sandbox", "create", "x", "--idle-ttl", "61s"], 1, "postern: the server refuses: idle_ttl_seconds: must be a multiple of 60\n"),
    (["sandbox", "create", "x", "--label", "nothing"], 2, "postern: --label 'nothing' is not KEY=VALUE\n"),
    (["sandbox", "create", "x", "--env", "NOT_THERE"], 2, "postern: --env NOT_THERE: there is no such variable here\n"),
    (["sandbox", "create", "x", "--policy", "/none.yaml"], 2, "postern: /none.yaml: cannot be read: No such file or directory\n"),
    (["sandbox", "list", "--status", "odd"], 1, "postern: the server refuses: the query's 'status' must be "),
    (["sandbox", "exec", "box"], 125, "postern sandbox exec: COMMAND is required\nHelp: postern sandbox exec --help\n"),
    (["sandbox", "exec", "none", "--", "true"], 125, "postern: there is nothing of that name\n"),
    (["sandbox", "exec", "-t", "box", "--", "true"], 125, "postern: -t needs a terminal as standard input\n"),
    (["sandbox", "exec", "box", "--timeout", "soon", "--", "true"], 125, "postern: --timeout must be like"),
    (["sandbox", "exec", "box", "--", "/none"], 125, "postern: "),
    (["sandbox", "exec", "box", "--", b"\xff"], 125, "postern: the command and its variables must be UTF-8"),
    (["sandbox", "cp", "a", "b"], 2, "postern: one of the two is in a sandbox, as NAME:PATH; ./a:b is a file here\n"),
    (["sandbox", "cp", "box:/etc/none", "-"], 1, "postern: the server refuses: "),
    (["sandbox", "cp", "/none", "box:x"], 2, "postern: '/none' cannot be read: No such file or directory\n"),
    (["sandbox", "cp", "/usr", "box:x"], 2, "postern: '/usr' is a directory; a whole one goes with tar: tar c /usr | postern sandbox exec box -- tar x\n"),
    (["policy", "show", "none"], 1, "postern: the server refuses: "),
    (["secret", "set", "KEY", "--file", "/none"], 2, "postern: '/none' cannot be read: No such file or directory\n"),
    (["secret", "set", "1 KEY", "--file", "/etc/hostname"], 1, "postern: the server refuses: "),
    (["secret", "set", "KEY"], 2, "postern: the value is empty\n"),
])
def test_what_goes_wrong_is_said_in_a_line_and_by_the_exit_status(shared, words, status, complaint):
    done = subprocess.run([kit.POSTERN, *words], env=environment(shared), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == status and done.stdout == "" and done.stderr.startswith(complaint) and len(done.stderr.splitlines()) <= 2, done
    assert shared.key not in done.stderr


@pytest.mark.parametrize("words", [["sandbox"], ["policy"], ["secret"], *[["sandbox", one] for one in ("create", "list", "show", "exec", "start", "stop", "rm", "cp", "logs")],
                                   *[["policy", one] for one in ("apply", "show", "check")], *[["secret", one] for one in ("set", "list", "rm")]], ids=" ".join)
def test_every_help_teaches_by_an_example(shared, words):
    text = good(shared, *words, "--help")
    assert text.splitlines()[0] and re.search(rf"^Usage: postern {' '.join(words)}\b", text, re.M) and re.search(rf"^  .*postern {words[0]} ", text, re.M), text


def test_nobody_there_and_no_key(shared):
    for words in (["sandbox", "list"], ["policy", "show", "box"], ["secret", "list"]):
        nobody = postern(shared, *words, "--url", "http://127.0.0.1:1")
        assert nobody.returncode == 3 and nobody.stderr.startswith("postern: no answer from http://127.0.0.1:1: ")
        assert postern(shared, *words, env={"POSTERN_API_KEY": ""}).returncode == 3
        wrong = postern(shared, *words, env={"POSTERN_API_KEY": "postern_wrong"})
        assert wrong.returncode == 1 and wrong.stderr.startswith("postern: the server refuses: ") and "wrong" not in wrong.stderr[10:]
    for url in ("ftp://127.0.0.1", "127.0.0.1:8080", "http://a:b@127.0.0.1:1", "http://127.0.0.1:1?x"):
        assert postern(shared, "sandbox", "list", "--url", url).returncode == 2
    assert postern(shared, "sandbox", "exec", "box", "--url", "http://127.0.0.1:1", "--", "true").returncode == 125
    assert postern(shared, "sandbox", "exec", "box", "--", "true", env={"POSTERN_API_KEY": "postern_wrong"}).returncode == 125
    assert good(shared, "sandbox", "exec", "box", "--url", shared.url + "/api/v1/", "--", "echo", "x") == "x\n"


# ---- exec --------------------------------------------------------------------------------------------------


def test_a_command_runs_as_if_it_were_here(shared):
    run = lambda *words, **more: postern(shared, "sandbox", "exec", "box", *words, **more)
    done = run("--cwd", "/tmp", "--env", "A=b c", "--", "sh", "-c", 'pwd; echo "$A"; echo aside >&2; exit 7')
    assert (done.returncode, done.stdout, done.stderr) == (7, "/tmp\nb c\n", "aside\n")
    assert run("--", "sh", "-c", "kill -TERM $$").returncode == 128 + signal.SIGTERM
    assert run("--", "echo", "--json", "-t", "--").stdout == "--json -t --\n"
    assert run("--", "cat").stdout == ""
    timed = run("--timeout", "1s", "--", "sleep", "1000")
    assert timed.returncode == 124 and timed.stderr.startswith("postern: ")
    assert run("--", "printenv", "TERM").returncode == 1


def test_streams_are_bytes_both_ways(shared):
    every = bytes(range(256)) * 4096
    done = postern(shared, "sandbox", "exec", "box", "--", "sh", "-c", "cat; printf '\\377\\000' >&2", input=every, text=False)
    assert done.returncode == 0 and done.stdout == every and done.stderr == b"\xff\0"
    assert hashlib.sha256(every).hexdigest() in postern(shared, "sandbox", "exec", "box", "--", "sha256sum", input=every, text=False).stdout.decode()
    # What nobody reads holds the command up, and is not kept.
    head = subprocess.run(["bash", "-o", "pipefail", "-c", '"$0" sandbox exec box -- yes | head -n 3; echo ${PIPESTATUS[0]}', kit.POSTERN], env=environment(shared), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT)
    assert head.stdout.splitlines() == ["y", "y", "y", str(128 + signal.SIGPIPE)] and head.stderr == ""
    # One that has heard enough ends as it likes.
    assert postern(shared, "sandbox", "exec", "box", "--", "sh", "-c", "head -c 3; exit 5", input=bytes(30_000_000), text=False).returncode == 5
    large = postern(shared, "sandbox", "exec", "box", "--", "head", "-c", "40000000", "/dev/zero", text=False)
    assert large.returncode == 0 and large.stdout == bytes(40_000_000)


def open_exec(server, *words, **more):
    return subprocess.Popen([kit.POSTERN, "sandbox", "exec", "box", *words], env=environment(server), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def running(server, name):
    return server.call("POST", "/box/execute", {"command": f"grep -l {name} /proc/[0-9]*/comm 2>/dev/null | grep -v self"})[1]["stdout"]


def test_output_comes_as_it_is_written_and_input_as_it_is_read(shared):
    talk = open_exec(shared, "--", "sh", "-c", "echo ready; while read x; do echo got $x; done; echo end", stdin=subprocess.PIPE)
    assert talk.stdout.readline() == "ready\n"
    for word in ("one", "two"):
        talk.stdin.write(word + "\n")
        talk.stdin.flush()
        assert talk.stdout.readline() == f"got {word}\n"
    talk.stdin.close()
    assert talk.stdout.read() == "end\n" and talk.wait(WAIT) == 0


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 128 + signal.SIGKILL), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 128 + signal.SIGHUP), (signal.SIGKILL, -signal.SIGKILL)])
def test_the_command_ends_when_its_caller_does(shared, number, status):
    name = f"ends{int(number)}"
    shared.call("POST", "/box/execute", {"command": f"cp /usr/bin/sleep /tmp/{name}"})
    sleeps = open_exec(shared, "--", "sh", "-c", f"echo ready; exec /tmp/{name} 1000", stdin=subprocess.DEVNULL)
    assert sleeps.stdout.readline() == "ready\n" and eventually(lambda: running(shared, name))
    sleeps.send_signal(number)
    assert sleeps.wait(WAIT) == status and eventually(lambda: not running(shared, name))


class ServerPlace(types.SimpleNamespace):
    def environment(self, more):
        return {**environment(self.server), **more}


@pytest.fixture
def terminal(shared):
    opened = []

    def make(*words):
        opened.append(Terminal(ServerPlace(server=shared, work="/"), [str(kit.POSTERN), *words]))
        return opened[-1]
    yield make
    for one in opened:
        one.close()


def test_a_terminal_is_the_commands_and_then_itself_again(shared, terminal):
    outer = terminal("sandbox", "exec", "-t", "box", "--", "bash", "--norc")
    outer.expect("# ")
    assert not termios.tcgetattr(outer.fd)[3] & termios.ECHO
    outer.size(33, 77)
    os.kill(outer.pid, signal.SIGWINCH)
    outer.send("until [ \"$(stty size)\" = '33 77' ]; do :; done; echo si''zed $TERM $(tty)\r")
    outer.expect("sized")
    assert re.match(r" xterm /dev/pts/\d+\s", outer.expect("\n"))
    outer.send("sh -c 'echo be\"\"gun; exec sleep 1000'\r")
    outer.expect("begun")
    outer.send("\3")
    outer.expect("# ")
    outer.send("exit 9\r")
    assert outer.wait() == 9


@pytest.mark.parametrize("end", ["signal", "keys"])
def test_a_terminal_is_itself_again_however_it_ends(shared, terminal, end):
    shell = terminal("sandbox", "exec", "-t", "box", "--", "cat")
    assert eventually(lambda: not termios.tcgetattr(shell.fd)[3] & termios.ICANON)
    shell.send("x\r")
    shell.expect("x")
    if end == "signal":
        os.kill(shell.pid, signal.SIGTERM)
        assert shell.wait() == 128 + signal.SIGTERM
    else:
        shell.send("\x1d\x1d\x1d")
        assert shell.wait() == 128 + signal.SIGINT
    assert termios.tcgetattr(shell.fd)[3] & (termios.ICANON | termios.ECHO) == termios.ICANON | termios.ECHO


# ---- files -------------------------------------------------------------------------------------------------


def test_files_go_in_and_come_out(shared, place):
    content = os.urandom(5_000_000)
    (place / "data file").write_bytes(content)
    assert good(shared, "sandbox", "cp", place / "data file", "box:deep/er/") == ""
    assert shared.call("POST", "/box/execute", {"command": "sha256sum < 'deep/er/data file'"})[1]["stdout"].split()[0] == hashlib.sha256(content).hexdigest()
    (place / "out").mkdir()
    good(shared, "sandbox", "cp", "box:/home/user/deep/er/data file", place / "out")
    assert (place / "out/data file").read_bytes() == content and os.listdir(place / "out") == ["data file"]
    assert (place / "out/data file").stat().st_mode & 0o777 == 0o666 & ~os.umask(os.umask(0o22))
    good(shared, "sandbox", "cp", "-", "box:piped", input="by pipe\n")
    assert good(shared, "sandbox", "cp", "box:piped", "-") == "by pipe\n"
    (place / "a:b").write_text("colon")
    good(shared, "sandbox", "cp", place / "a:b", "box:colon")
    assert good(shared, "sandbox", "cp", "box:colon", "/dev/stdout") == "colon"
    (place / "kept").write_text("old")
    assert postern(shared, "sandbox", "cp", "box:none", place / "kept").returncode == 1 and (place / "kept").read_text() == "old"
    assert postern(shared, "sandbox", "cp", "box:piped", place / "none/x").returncode == 2
    full = postern(shared, "sandbox", "cp", "box:piped", "/dev/full")
    assert full.returncode == 2 and full.stderr == "postern: '/dev/full' cannot be written: No space left on device\n"
    (place / "tree/in").mkdir(parents=True)
    (place / "tree/in/file").write_bytes(b"\xff")
    tar = subprocess.run(["tar", "c", "-C", place, "tree"], capture_output=True, check=True).stdout
    assert postern(shared, "sandbox", "exec", "box", "--", "tar", "x", input=tar, text=False).returncode == 0
    assert postern(shared, "sandbox", "cp", "box:tree/in/file", "-", text=False).stdout == b"\xff"


# ---- policies ----------------------------------------------------------------------------------------------


def test_a_policy_is_shown_changed_and_put_in_force(shared, place):
    file = place / "policy.yaml"
    file.write_text(POLICY)
    shared.call("POST", "/boxes", {"name": "ruled"})
    assert good(shared, "policy", "check", file) == f"{file}: good (1 rules, 0 callbacks)\n"
    assert good(shared, "policy", "apply", "ruled", file) == ""
    shown = good(shared, "policy", "show", "ruled")
    assert "canary" not in shown and "is_set: true" in shown
    assert json.loads(good(shared, "policy", "show", "ruled", "--json")) == shared.call("GET", "/boxes/ruled")[1]["proxy_config"]
    # What was shown is taken again, and keeps its value; so does what leaves the value out.
    for text in (shown, POLICY.replace(", value: canary-opaque", "")):
        good(shared, "policy", "apply", "ruled", "-", input=text)
        assert shared.call("GET", "/boxes/ruled")[1]["proxy_config"]["rules"][0]["headers"][0]["is_set"] is True
    moved = postern(shared, "policy", "apply", "ruled", "-", input=POLICY.replace(", value: canary-opaque", "").replace("api.example.test", "evil.example.test"))
    assert moved.returncode == 1 and re.match(r"postern: -:5:9: rules\[0\]\.headers\[0\]", moved.stderr), moved.stderr
    question = postern(shared, "policy", "check", file, "https://other.example.test/")
    assert question.returncode == 3 and "not_in_allow_list" in question.stdout
    assert postern(shared, "policy", "check", file, "https://api.example.test/x").returncode == 0
    shared.call("DELETE", "/boxes/ruled")


def test_a_policys_mistakes_are_named_with_their_lines(shared, place):
    file = place / "p.yaml"
    shared.call("POST", "/boxes", {"name": "ruled", "proxy_config": {"description": "as it was"}})
    for text, wanted in (("rules:\n  - name: a\n    match_host: [b.example]\n", r"p\.yaml:3:5: rules\[0\]\.match_host: unknown field"),
                         ("rulez: []\naccess_control: {allow: []}\n", r"p\.yaml:1:1: rulez(.*\n)+.*p\.yaml:2:\d+: access_control\.allow: unknown field"),
                         ("rules: [", r"p\.yaml:\d+:\d+: "),
                         ("rules:\n  - {name: a, match_hosts: [b.example], headers: [{name: A, type: opaque, from: 'file:/etc/passwd'}]}\n", r"p\.yaml:2:\d+: .*from")):
        file.write_text(text)
        for words in (["policy", "apply", "ruled", file], ["policy", "check", file], ["sandbox", "create", "--policy", file]):
            done = postern(shared, *words)
            assert done.returncode == 2 and done.stdout == "" and re.search(wanted, done.stderr), done.stderr
    # What only the server knows.
    file.write_text("rules:\n  - name: a\n    match_hosts: [b.example]\n    headers:\n      - {name: A, type: workspace_secret, value: 'x {MISSING}'}\n")
    for words in (["policy", "apply", "ruled", file], ["sandbox", "create", "--policy", file]):
        done = postern(shared, *words)
        assert done.returncode == 1 and re.fullmatch(r"postern: \S+/p\.yaml:5:\d+: rules\[0\]\.headers\[0\]\.value: there is no secret named MISSING.*\n", done.stderr), done.stderr
    assert shared.call("GET", "/boxes/ruled")[1]["proxy_config"] == {"description": "as it was"}
    shared.call("DELETE", "/boxes/ruled")


@pytest.mark.parametrize("policy", [
    {}, {"description": "true"}, {"description": "a: b # c\n\x1b[31m ü 'x\" \\"}, {"access_control": {"allow_list": ["*", "~^a$", "[::1]:22", "no", "10.0.0.0/8"]}},
    {"rules": [{"name": "1", "match_hosts": ["a.example"], "match_paths": ["/v1/*"], "env_vars": {"A": "1", "B": ""}, "enabled": False}]},
    {"callbacks": [{"match_hosts": ["a.example"], "url": "https://b.example/x?y", "ttl_seconds": 60, "full_request": False, "request_headers": [{"name": "A", "type": "plaintext", "value": "- x"}]}]},
])
def test_yaml_says_what_json_says(shared, policy):
    assert shared.call("POST", "/boxes", {"name": "first", "proxy_config": policy})[0] == 201
    shared.call("POST", "/boxes", {"name": "second"})
    shown = good(shared, "policy", "show", "first")
    assert harmless(shown)
    good(shared, "policy", "apply", "second", "-", input=shown)
    first, second = (shared.call("GET", f"/boxes/{name}")[1].get("proxy_config") for name in ("first", "second"))
    assert first == second
    for name in ("first", "second"):
        shared.call("DELETE", f"/boxes/{name}")


# ---- secrets -----------------------------------------------------------------------------------------------


def test_secrets_go_in_and_never_come_back(shared, place, terminal):
    value = 'canary "\\ \t ü'
    good(shared, "secret", "set", "PIPED", input=value + "\n")
    (place / "value").write_text("canary-file\r\n")
    good(shared, "secret", "set", "FROM_FILE", "--file", place / "value")
    asked = terminal("secret", "set", "ASKED")
    asked.expect("Value of ASKED (not shown): ")
    asked.send("canary-asked\r")
    assert asked.wait() == 0 and "canary" not in asked.seen
    stopped = terminal("secret", "set", "STOPPED")
    stopped.expect("(not shown): ")
    stopped.send("canary-stopped\3\r")
    assert stopped.wait() == 2
    listed = good(shared, "secret", "list")
    assert [line.split()[0] for line in listed.splitlines()] == ["KEY", "ASKED", "FROM_FILE", "PIPED"] and "canary" not in listed
    assert [json.loads(line)["key"] for line in good(shared, "secret", "list", "--json").splitlines()] == ["ASKED", "FROM_FILE", "PIPED"]
    assert postern(shared, "secret", "set", "KEY", "value-in-argv").returncode == 2
    for wrong in (b"\xff\n", b"", b"\n", b"x" * 70_000):
        assert postern(shared, "secret", "set", "KEY", input=wrong, text=False).returncode == 2
    good(shared, "secret", "rm", "ASKED", "FROM_FILE")
    assert [line.split()[0] for line in good(shared, "secret", "list").splitlines()] == ["KEY", "PIPED"]


@pytest.mark.parametrize("server", ["root"], indirect=True)
def test_a_secret_is_put_on_as_it_was_given(server, place, authority):
    heads = []

    def script(connection, number):
        while head := one.read_head(connection):
            heads.append(head)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    one = kit.Scripted(script, authority, [API])
    server.at(API, one.port).start()
    good(server, "secret", "set", "TOKEN", input='a"\\b\n')
    (place / "p.yaml").write_text("rules:\n  - {name: api, match_hosts: [api.example.test], headers: [{name: X-Key, type: workspace_secret, value: '{TOKEN}'}]}\n")
    good(server, "sandbox", "create", "box", "--policy", place / "p.yaml")
    assert good(server, "sandbox", "exec", "box", "--", "curl", "-sS", f"https://{API}/") == "ok"
    assert b'X-Key: a"\\b\r\n' in heads[0]
    one.stop()


# ---- harm --------------------------------------------------------------------------------------------------


def test_names_do_not_speak_to_the_terminal(shared):
    name = "owned  ready\u202e \u2028"
    status, made = shared.call("POST", "/boxes", {"name": name, "labels": {"\u202e": "\x9b31m\x1b[2J\n"}, "proxy_config": {"description": "\x1b[31m\u2028"}})
    assert status == 201
    for words in (["list"], ["show", made["id"]], ["list", "--json"], ["show", made["id"], "--json"]):
        assert harmless(good(shared, "sandbox", *words)), words
    assert len(good(shared, "sandbox", "list", "--contains", "owned").splitlines()) == 2
    assert harmless(good(shared, "policy", "show", made["id"]))
    assert good(shared, "sandbox", "exec", name, "--", "echo", "reached") == "reached\n"
    done = postern(shared, "sandbox", "show", name + "x")
    assert done.returncode == 1 and harmless(done.stderr)
    assert good(shared, "sandbox", "rm", name) == ""


class FalseServer(threading.Thread):
    """A server that says what it is told to, to each connection, and remembers what it was sent."""

    def __init__(self, says):
        super().__init__(daemon=True)
        self.says, self.heard = says, b""
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url, self.key = f"http://127.0.0.1:{self.listener.getsockname()[1]}", "postern_canary-key"
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(WAIT)
                try:
                    head = b""
                    while b"\r\n\r\n" not in head:
                        head += connection.recv(65536) or b"\r\n\r\n"
                    self.heard += head
                    for piece in self.says(head):
                        connection.sendall(piece)
                    # Closed with something unread it would be reset, and what was said might not arrive.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    continue

    def stop(self):
        self.listener.close()


def answered(body, status="200 OK", fields=b"", size=None):
    return lambda head: [b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s" % (status.encode(), len(body) if size is None else size, fields, body)]


def endless(head):
    yield b"HTTP/1.1 200 OK\r\n\r\n"
    while True:
        yield b"[[[[[[[[" * 100_000


def endless_head(head):
    yield b"HTTP/1.1 200 OK\r\n"
    while True:
        yield b"X-%d: y\r\n" % 1 * 10_000


ASKS = [["sandbox", "list"], ["sandbox", "list", "--json"], ["sandbox", "show", "x"], ["sandbox", "show", "x", "--json"], ["sandbox", "create"], ["policy", "show", "x"], ["secret", "list"], ["log"]]
FALSE = {"garbage": lambda head: [b"\x00\x1b[31mgarbage\r\n\r\n"], "nothing": lambda head: [], "cut": answered(b"{}", size=1000), "no JSON": answered(b"\x1b[31m<html>"),
         "nested": answered(b"[" * 1_000_000), "deep": answered(b'{"a":' * 5000 + b"1" + b"}" * 5000), "an error that speaks": answered(b'{"detail": {"error": "x", "message": "\\u001b[31m\\n\\r"}}', "400 Bad"),
         "an error of wrong types": answered(b'{"detail": [{"loc": {"a": 1}, "msg": 7}, 3, null, {"msg": "\\u0007", "loc": [true, "body", -1, 1e99]}]}', "422 Bad"),
         "an error that is none": answered(b'{"detail": 7}', "500 Bad"), "endless": endless, "an endless head": endless_head}


@pytest.mark.parametrize("says", FALSE.values(), ids=FALSE.keys())
def test_a_server_that_means_harm_gets_a_sentence(says):
    false = FalseServer(says)
    for words in ASKS if says is not endless else ASKS[:1]:
        done = postern(false, *words)
        assert done.returncode in (1, 3) and done.stdout == "" and done.stderr.startswith("postern: ") and harmless(done.stderr) and len(done.stderr) < 500, (words, done)
    false.stop()


@pytest.mark.parametrize("body", [b"7", b"null", b"[]", b'{"items": 7}', b'{"items": [null, 7, {"name": 7, "labels": 3, "idle_ttl_seconds": "x", "status": ["\\u001b"]}, {"labels": {"\\u001b": 7}}], "next_cursor": 7}',
                                  b'{"items": [{"name": "\\u001b]0;x\\u0007\\r\\n", "status": "\\u009b", "labels": {"\\u001b[2J": "\\n"}}]}', b'{"name": "\\u001b[2J\\n", "id": "\\u009b", "proxy_config": {"\\u001b": "\\u001b"}}',
                                  b'[{"key": "\\u001b"}, {"key": 7}, 8, null]', b'{"name": null, "proxy_config": 7, "labels": []}', b'{"proxy_config": {"a": [[[]], {}, [{"b": [1e999]}]]}}', b'{"items": [{}], "next_cursor": "again"}'])
def test_answers_of_wrong_types_are_borne(body):
    false = FalseServer(answered(body))
    for words in [*ASKS[:-1], ["sandbox", "list", "--limit", "5"]] if b"again" not in body else [["sandbox", "list", "--limit", "5"]]:
        done = postern(false, *words)
        assert done.returncode in (0, 1) and harmless(done.stdout + done.stderr), (words, done)
    false.stop()


def test_a_redirect_is_not_followed_and_the_key_goes_nowhere(place):
    elsewhere = FalseServer(answered(b"{}"))
    for status in ("301 Moved", "307 Temporary", "308 Permanent"):
        false = FalseServer(answered(b"", status, f"Location: {elsewhere.url}/\r\n".encode()))
        (place / "x").write_text("x")
        for words in [*ASKS, ["sandbox", "rm", "x"], ["sandbox", "cp", "x:y", "-"], ["sandbox", "cp", place / "x", "x:y"], ["sandbox", "exec", "x", "--", "true"]]:
            done = postern(false, *words)
            assert done.returncode in (1, 125) and done.stdout == "" and status[:3] in done.stderr, (words, done)
        assert b"postern_canary-key" in false.heard
        false.stop()
    assert elsewhere.heard == b""
    elsewhere.stop()


def shaken(*frames, accept=None, fields=b""):
    def says(head):
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", head)[1]
        right = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        yield b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%sSec-WebSocket-Accept: %s\r\n\r\n" % (fields, accept or right)
        yield from frames
    return says


def frame(first, payload):
    return bytes([first, len(payload)]) + payload if len(payload) < 126 else bytes([first, 127]) + len(payload).to_bytes(8, "big") + payload


SOCKETS = {"no WebSocket": answered(b"{}"), "a wrong proof": shaken(accept=b"x"), "no upgrade": lambda head: [b"HTTP/1.1 101 Switching\r\n\r\n"], "garbage": lambda head: [b"\0\0\0\r\n\r\n"],
           "an endless head": endless_head, "a refusal": answered(b'{"detail": {"error": "x", "message": "\\u001b[31mno"}}', "403 No"), "a masked frame": shaken(b"\x81\x81abcde"),
           "reserved bits": shaken(frame(0xC1, b"{}")), "a reserved kind": shaken(frame(0x83, b"{}")), "a large ping": shaken(frame(0x89, b"x" * 126)), "a ping in pieces": shaken(frame(0x09, b"")),
           "a piece of nothing": shaken(frame(0x80, b"x")), "a message in a message": shaken(frame(0x01, b"x"), frame(0x81, b"x")), "a frame of 2^63": shaken(b"\x82\x7f" + b"\xff" * 8),
           "an endless message": shaken(*[frame(0x02, b"x" * 60_000)] * 1, *[frame(0x00, b"x" * 60_000)] * 100), "goodbye": shaken(frame(0x88, b"\x03\xe8")), "nothing": shaken(),
           "no JSON": shaken(frame(0x81, b"\x1b[31m")), "an end that is none": shaken(frame(0x81, b'{"type": ["exit"]}')), "an error that speaks": shaken(frame(0x81, b'{"type": "error", "error": "\\u001b[31m"}'))}


@pytest.mark.parametrize("says", SOCKETS.values(), ids=SOCKETS.keys())
def test_a_socket_that_means_harm_gets_a_sentence(says):
    false = FalseServer(says)
    done = postern(false, "sandbox", "exec", "x", "--", "true")
    assert done.returncode == 125 and done.stdout == "" and done.stderr.startswith("postern: ") and harmless(done.stderr) and len(done.stderr.splitlines()) == 1, done
    false.stop()


@pytest.mark.parametrize("code, status", [("3", 3), ("-1", 255), ("99999999999", 255), ('"7"', 0), ("1e3", 0), ("null", 0)])
def test_an_end_has_the_status_that_was_said(code, status):
    false = FalseServer(shaken(frame(0x82, b"\1out"), frame(0x82, b"\2err"), frame(0x82, b""), frame(0x89, b"ping"), frame(0x01, b'{"type": "ex'), frame(0x80, b'it", "exit_code": %s}' % code.encode())))
    done = postern(false, "sandbox", "exec", "x", "--", "true")
    assert (done.stdout, done.stderr) == ("out", "err") and done.returncode == status
    false.stop()
