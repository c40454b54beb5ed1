"""The command line as its users meet it: exit statuses, complaints that name their culprit, and nothing started after one."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

import kit
from clients_support import CANARY, become, client, ordinary_user  # noqa: F401 (client is a fixture)

COMMANDS = [[], ["run"], ["check"], ["doctor"], ["version"], ["log"], ["log", "verify"], ["policy", "learn"]]


def call(place, *words, env=None, **more):
    """postern with these words, in a directory of its own."""
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state"), **(env or {})}
    return subprocess.run([kit.POSTERN, *map(str, words)], cwd=place, env=environment, capture_output=True, text=True, timeout=60,
                          stdin=subprocess.DEVNULL, **more)


# ---- exit statuses of run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("command, status, stderr", [
    (["true"], 0, ""),
    (["sh", "-c", "exit 7"], 7, ""),
    (["sh", "-c", "exit 125"], 125, ""),
    (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
    (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL, ""),
    (["no-such-program"], 127, "postern: cannot run 'no-such-program': No such file or directory\n"),
    (["/etc/passwd"], 126, "postern: cannot run '/etc/passwd': Permission denied\n"),
    (["/usr"], 126, "postern: cannot run '/usr': Permission denied\n"),
])
def test_run_ends_as_its_command_does(place, command, status, stderr):
    done = call(place, "run", "--", *command)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", stderr)


def test_the_commands_own_options_are_its_own(place):
    done = call(place, "run", "echo", "--policy", "--help", "-q", "--", "x")
    assert (done.returncode, done.stdout) == (0, "--policy --help -q -- x\n")


def test_standard_input_and_both_outputs_are_the_commands(place):
    done = subprocess.run([kit.POSTERN, "run", "--", "sh", "-c", "cat; echo aside >&2"], cwd=place, input="in", capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state")}, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "in", "aside\n")


# ---- complaints --------------------------------------------------------------------------------------------

# options of run, files to make, and what the complaint must say (each a regular expression)
BAD = {
    "a policy that is absent": (["--policy", "none.yaml"], {}, [r"^postern: none\.yaml: cannot be read: No such file"]),
    "a policy that is a directory": (["--policy", "/usr"], {}, [r"^postern: /usr: cannot be read: Is a directory"]),
    "a broken policy": (["--policy", "p.yaml"], {"p.yaml": "rules:\n  - name: [x\n"}, [r"^postern: p\.yaml:\d+:\d+: "]),
    "a broken JSON policy": (["--policy", "p.json"], {"p.json": '{"rules": [}'}, [r"^postern: p\.json:1:\d+: "]),
    "an unknown key": (["--policy", "p.yaml"], {"p.yaml": "rules:\n  - name: a\n    match_host: [b.example]\n"},
                       [r"^postern: p\.yaml:3:5: rules\[0\]\.match_host: unknown field 'match_host' \(accepted: name, .*match_hosts"]),
    "two mistakes, both told": (["--policy", "p.yaml"], {"p.yaml": "rulez: []\naccess_control: {allow: []}\n"},
                                [r"p\.yaml:1:1: rulez: unknown field", r"p\.yaml:2:\d+: access_control\.allow: unknown field"]),
    "a limit that is none": (["--policy", "p.yaml"], {"p.yaml": "rules:\n  - {name: a, match_hosts: [a.example.com], limits: {requests_per_second: 0}}\n"},
                             [r"p\.yaml:2:\d+: rules\[0\]\.limits\.requests_per_second: '0' is not accepted: a whole number from 1"]),
    "a signature that is none": (
        ["--policy", "p.yaml"],
        {"p.yaml": "rules:\n  - {name: a, type: azure, azure: {storage_account: acme, sas_token: {type: opaque, value: x}}}\n"},
        [r"p\.yaml:2:\d+: rules\[0\]\.azure\.sas_token\.value: .*accepted: sv="]),
    "a rule without its settings": (["--policy", "p.yaml"], {"p.yaml": "rules:\n  - {name: a, type: aws}\n"}, [r"p\.yaml:2:\d+: rules\[0\]: .*needs 'aws'"]),
    "a bad port in a policy": (["--policy", "p.yaml"], {"p.yaml": 'access_control: {allow_list: ["example.com:99999"]}\n'},
                               [r"p\.yaml:1:\d+: access_control\.allow_list\[0\]: 'example\.com:99999' .*port.*accepted: host, host:PORT"]),
    "a secret that the policy names and nobody gave": (
        ["--policy", "p.yaml"],
        {"p.yaml": "rules:\n  - name: a\n    match_hosts: [b.example]\n    headers: [{name: A, type: workspace_secret, value: 'x {MISSING}'}]\n"},
        [r"p\.yaml:4:\d+: rules\[0\]\.headers\[0\]\.value: there is no secret named MISSING", r"--secret KEY"]),
    "a secret that is not in the environment": (["--secret", "NOT_SET"], {}, [r"--secret: NOT_SET: the environment variable NOT_SET is not set \(accepted: KEY=VALUE"]),
    "an empty secret": (["--secret", "KEY="], {}, [r"--secret: KEY: the value is empty \(accepted: "]),
    "a secret without a name": (["--secret", "=x"], {}, [r"--secret: a secret's name has letters"]),
    "a secrets file that is absent": (["--secrets", "none.env"], {}, [r"--secrets none\.env: cannot be read: No such file"]),
    "a secrets file with a broken line": (["--secrets", "s.env"], {"s.env": "# fine\nA=1\noops\n"}, [r"--secrets s\.env:3: is not KEY=VALUE"]),
    "a destination with a bad port": (["--allow", "example.com:abc"], {}, [r"--allow\[0\]: 'example\.com:abc' .*port.*accepted: host, host:PORT"]),
    "a destination with a scheme": (["--deny", "https://example.com"], {}, [r"--deny\[0\]: .*leave the scheme out"]),
    "a broken regular expression": (["--allow", "~("], {}, [r"--allow\[0\]: .*regular expression is broken"]),
    "a resolve without an address": (["--resolve", "example.com"], {}, [r"--resolve 'example\.com' is not HOST=IP\[:PORT\]"]),
    "a resolve to a name": (["--resolve", "example.com=localhost"], {}, [r"--resolve 'example\.com=localhost' is not HOST=IP"]),
    "a resolve to a bad port": (["--resolve", "example.com=127.0.0.1:70000"], {}, [r"--resolve .*is not HOST=IP\[:PORT\]"]),
    "a network that is none": (["--allow-private", "10.0.0.0/99"], {}, [r"--allow-private '10\.0\.0\.0/99' is not a network"]),
    "a network with host bits": (["--allow-private", "10.1.2.3/8"], {}, [r"--allow-private '10\.1\.2\.3/8' is not a network"]),
    "an origin CA that is absent": (["--origin-ca", "none.pem"], {}, [r"none\.pem"]),
    "an origin CA that is none": (["--origin-ca", "ca.pem"], {"ca.pem": "hello\n"}, [r"'ca\.pem' holds no readable PEM certificate"]),
    "a log that cannot be opened": (["--log", "none/log"], {}, [r"--log 'none/log' cannot be opened: No such file"]),
    "a bind of nothing": (["--bind", "/no/such"], {}, [r"--bind '/no/such': No such file"]),
    "a hide of nothing": (["--hide", "/no/such"], {}, [r"--hide '/no/such': No such file"]),
    "a variable without a name": (["--env", "=x"], {}, [r"--env '=x' is not NAME=VALUE or NAME"]),
    "a variable with a secret in it": (["--secret", f"KEY={CANARY}", "--env", f"OTHER=Bearer {CANARY}"], {}, [r"--env OTHER: .*secret"]),
    "an unknown option": (["--polcy", "p.yaml"], {}, [r"^postern run: there is no option '--polcy'", r"^Help: postern run --help$"]),
    "an unknown option with a value": ([f"--secrte=KEY={CANARY}"], {}, [r"^postern run: there is no option '--secrte'\n"]),
}


@pytest.mark.parametrize("options, files, complaints", BAD.values(), ids=BAD.keys())
def test_a_mistake_is_named_and_nothing_starts(place, options, files, complaints):
    for name, text in files.items():
        (place / name).write_text(text)
    done = call(place, "run", *options, "--", "touch", "started")
    assert done.returncode == 125, done.stderr
    assert done.stdout == "" and not (place / "started").exists()
    for complaint in complaints:
        assert re.search(complaint, done.stderr, re.M), done.stderr
    assert CANARY not in done.stderr
    assert len(done.stderr.splitlines()) <= 3, done.stderr


def test_the_same_command_without_a_mistake_starts(place):
    assert call(place, "run", "--", "touch", "started").returncode == 0
    assert (place / "started").exists()


def test_a_log_is_never_written_through_a_symbolic_link(place):
    (place / "victim").write_text("")
    (place / "log").symlink_to(place / "victim")
    done = call(place, "run", "--log", "log", "--", "true")
    assert done.returncode == 125 and "--log 'log' cannot be opened" in done.stderr


def test_an_unreadable_policy_is_named(place):
    entry = ordinary_user()
    place.chmod(0o755)
    (place / "p.yaml").write_text("{}")
    (place / "p.yaml").chmod(0o000)
    done = subprocess.run([*become(entry), kit.POSTERN, "run", "--policy", str(place / "p.yaml"), "--", "true"], capture_output=True, text=True,
                          cwd="/", timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": "/", "POSTERN_STATE_DIR": str(place / "state")})
    assert done.returncode == 125
    assert done.stderr == f"postern: {place}/p.yaml: cannot be read: Permission denied\n"


@pytest.mark.parametrize("words, status, complaint", [
    (["nonsense"], 2, "postern: 'nonsense' is not a command (accepted: run, check, serve, sandbox, policy, secret, log, key, backup, restore, doctor, version)\nHelp: postern --help\n"),
    (["--nonsense=x"], 2, "postern: '--nonsense' is not an option before a command (accepted: run, check, serve, sandbox, policy, secret, log, key, backup, restore, doctor, version)\nHelp: postern --help\n"),
    (["run"], 125, "postern run: COMMAND is required\nHelp: postern run --help\n"),
    (["run", "--"], 125, "postern run: COMMAND is required\nHelp: postern run --help\n"),
    (["run", "--policy"], 125, "postern run: --policy: 1 required FILE missing\nHelp: postern run --help\n"),
    (["check"], 2, "postern check: TARGET is required\nHelp: postern check --help\n"),
    (["doctor", "now"], 2, "postern doctor: there are more arguments than expected\nHelp: postern doctor --help\n"),
])
def test_a_command_line_that_cannot_be_read_says_why(place, words, status, complaint):
    done = call(place, *words)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", complaint)


# ---- help, version -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: " ".join(words) or "postern")
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_everywhere_on_standard_output(place, command, option):
    done = call(place, *command, option)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(rf"^Usage: {' '.join(['postern', *command])}\b", done.stdout, re.M)
    assert "\033" not in done.stdout


@pytest.mark.parametrize("command", [[], ["run"], ["check"]], ids=["postern", "run", "check"])
def test_help_has_examples(place, command):
    assert re.search(r"^  postern (run|check) ", call(place, *command, "--help").stdout, re.M)


def test_nothing_at_all_is_answered_with_the_help(place):
    done = call(place)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == call(place, "--help").stdout


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(place, words):
    done = call(place, *words)
    assert done.returncode == 0 and re.fullmatch(r"postern \d+\.\d+\.\d+\n", done.stdout)


# ---- summary, log, colours ---------------------------------------------------------------------------------

DENIED = "curl -sS -o /dev/null https://evil.example/"


def test_the_summary_says_who_was_called(postern, nginx):
    port = nginx.serve("api.example.test", locations='location / { return 200 "hello"; }')
    nginx.start()
    words, _ = postern.at("api.example.test", port).arguments(
        "sh", "-c", f"curl -sS https://api.example.test/ >/dev/null; {DENIED}", policy=kit.header_rule("api.example.test"), secrets={"KEY": CANARY})
    words.remove("--quiet")
    done = subprocess.run(words, cwd=postern.work, env=postern.environment(), capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    assert lines[0] == "postern: 1 allowed, 2 denied, 0 failed"  # the name and the request
    assert any(re.match(r"  api\.example\.test:443 +1 call, 1 with credentials, \d+ B up, \d+ B down$", line) for line in lines), lines
    assert any(re.match(r"  evil\.example:443 +1 call, 1 denied", line) for line in lines), lines
    assert done.stdout == "" and "\033" not in done.stderr and CANARY not in done.stderr


def test_quiet_says_nothing_at_the_end(place):
    assert "evil.example" in call(place, "run", "--", "sh", "-c", DENIED).stderr
    assert call(place, "run", "--quiet", "--", "sh", "-c", DENIED).stderr == ""
    assert call(place, "run", "-q", "--", "sh", "-c", DENIED).stderr == ""


def test_quiet_does_not_silence_complaints(place):
    assert "NOT_SET" in call(place, "run", "--quiet", "--secret", "NOT_SET", "--", "true").stderr


def test_the_summary_shows_the_busiest_hosts_and_all_when_asked(place):
    script = "for i in $(seq 20); do curl -s -m 10 -o /dev/null https://host$i.evil.example/; done; true"
    brief = call(place, "run", "--", "sh", "-c", script).stderr
    verbose = call(place, "run", "-v", "--", "sh", "-c", script).stderr
    assert re.search(r"… and 28 more hosts \(-v shows all\)", brief) and len(brief.splitlines()) == 14
    assert all(f"host{number}.evil.example:443" in verbose for number in range(1, 21)) and "more hosts" not in verbose


def test_a_run_without_calls_has_no_summary(place):
    assert call(place, "run", "--", "true").stderr == ""


def test_the_log_on_standard_output(place):
    done = call(place, "run", "--quiet", "--log", "-", "--", "sh", "-c", DENIED)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(record["kind"], record["decision"]) for record in records} == {("dns", "denied"), ("http", "denied")}


def test_a_log_file_is_private_and_appended_to(place):
    for _ in range(2):
        call(place, "run", "--quiet", "--log", "log", "--", "sh", "-c", DENIED)
    assert (place / "log").stat().st_mode & 0o777 == 0o600
    assert len((place / "log").read_text().splitlines()) == 4


def test_the_log_is_written_with_or_without_a_summary(place):
    call(place, "run", "--log", "log", "--", "sh", "-c", DENIED)
    assert len((place / "log").read_text().splitlines()) == 2


def on_a_terminal(place, *words, env=None):
    """What postern writes on a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.execve(kit.POSTERN, [kit.POSTERN, *words],
                  {"PATH": "/usr/bin:/bin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state"), "TERM": "xterm", **(env or {})})
    output, end = b"", time.monotonic() + 60
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 1)[0]:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:
            break
        if not piece:
            break
        output += piece
    os.close(terminal)
    os.waitpid(pid, 0)
    return output.decode()


@pytest.mark.parametrize("words, told", [(["run", "--", "sh", "-c", DENIED], "denied"), (["check", "https://evil.example/"], "denied")], ids=["run", "check"])
def test_colours_are_for_terminals_only_and_not_for_all(place, words, told):
    shown = on_a_terminal(place, *words)
    assert told in shown and "\033[" in shown
    shown = on_a_terminal(place, *words, env={"NO_COLOR": "1"})
    assert told in shown and "\033[" not in shown
    done = call(place, *words)
    assert told in done.stdout + done.stderr and "\033" not in done.stdout + done.stderr


# ---- check, doctor -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, status, told", [
    (["--allow", "example.com", "https://example.com/"], 0, "allowed  GET https://example.com/"),
    (["https://example.com/"], 3, "denied  GET https://example.com/"),
    (["--allow", "db.example.com:5432", "db.example.com:5432"], 0, "allowed  db.example.com:5432"),
    (["--allow", "db.example.com:5432", "db.example.com:5433"], 3, "denied  db.example.com:5433"),
])
def test_check_answers_with_its_status(place, words, status, told):
    done = call(place, "check", *words)
    assert done.returncode == status and done.stdout.splitlines()[0] == told and done.stderr == ""


@pytest.mark.parametrize("words, complaint", [
    (["ftp://example.com/"], r"only https:// and http://"),
    (["--policy", "none.yaml", "https://example.com/"], r"none\.yaml: cannot be read"),
    (["--allow", "x:y", "https://example.com/"], r"--allow\[0\]"),
    (["--header", "nonsense", "https://example.com/"], r"a header is 'name: value'"),
    (["--secret", "NOT_SET", "https://example.com/"], r"--secret: NOT_SET: the environment variable NOT_SET is not set"),
    (["https://example.com:70000/"], r"names no host"),
])
def test_check_that_cannot_be_answered_is_neither_yes_nor_no(place, words, complaint):
    done = call(place, "check", *words)
    assert done.returncode == 2 and done.stdout == "" and re.search(complaint, done.stderr), done.stderr


def test_doctor_finds_this_machine_healthy(client):
    done = subprocess.run([*become(client.entry), kit.POSTERN, "doctor"], cwd=client.work, env=client.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^ok +capture ", done.stdout, re.M) and "problem" not in done.stdout and done.stderr == ""


def without_bubblewrap(place, *words, instead="/dev/null"):
    """postern with these words, in a view of this machine in which bubblewrap is no program, or another one."""
    hide = f'mount --bind {instead} /usr/bin/bwrap && exec "$0" "$@"'
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", hide, kit.POSTERN, *words], cwd=place, text=True,
                          capture_output=True, timeout=60, env={"PATH": "/usr/bin:/bin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state")})


def test_doctor_names_the_command_that_mends_what_is_missing(place):
    done = without_bubblewrap(place, "doctor")
    assert done.returncode == 1
    assert re.search(r"^problem +bubblewrap +not installed\n +mend it: .*bubblewrap$", done.stdout, re.M), done.stdout + done.stderr


def test_run_says_the_same_before_anything_starts(place):
    done = without_bubblewrap(place, "run", "--", "touch", "started")
    assert done.returncode == 125 and not (place / "started").exists()
    assert re.match(r"postern: bubblewrap: not installed; mend it: .*bubblewrap\n$", done.stderr), done.stderr


def test_what_bubblewrap_complains_of_is_part_of_the_message(place):
    (place / "bwrap").write_text("#!/bin/sh\necho 'bwrap: No luck today' >&2\nexit 1\n")
    (place / "bwrap").chmod(0o755)
    done = without_bubblewrap(place, "run", "--", "true", instead=place / "bwrap")
    assert (done.returncode, done.stderr) == (
        125, "postern: bubblewrap could not make the sandbox: No luck today; `postern doctor` says what is missing\n")


def test_a_standard_descriptor_that_is_closed_is_null_to_the_command(place):
    done = subprocess.run(["sh", "-c", 'exec "$@" <&- 2>&-', "sh", kit.POSTERN, "run", "--", "sh", "-c",
                           "readlink /proc/$$/fd/0 /proc/$$/fd/2; echo aside >&2"], cwd=place, stdout=subprocess.PIPE, text=True, timeout=60,
                          env={"PATH": "/usr/bin:/bin", "HOME": str(place), "POSTERN_STATE_DIR": str(place / "state")})
    assert (done.returncode, done.stdout) == (0, "/dev/null\n/dev/null\n")


def test_doctor_says_which_state_directory_cannot_be_used(place):
    (place / "state").write_text("a file stands where the directory should be")
    done = call(place, "doctor")
    assert done.returncode == 1 and f"'{place}/state' cannot be used" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["run", "--", "true"], ["doctor"]], ids=["run", "doctor"])
def test_a_state_directory_that_cannot_be_used_is_named(place, command):
    (place / "file").write_text("")
    done = call(place, *command, env={"POSTERN_STATE_DIR": str(place / "file" / "state")})
    assert done.returncode == (125 if command[0] == "run" else 1)
    assert "POSTERN_STATE_DIR" in done.stderr and str(place / "file") in done.stderr


def test_a_signal_sent_to_postern_reaches_the_program_that_handles_it(postern):
    process, _ = postern.start("/usr/bin/python3", "-c", """
import os, signal
def handle(*_): os.write(1, b'handled\\n'); os._exit(7)  # print() is not to be interrupted by itself.
signal.signal(signal.SIGTERM, handle)
print([line.split()[1] for line in open('/proc/self/status') if line.startswith('SigBlk')], flush=True)
while True: signal.pause()
""")
    assert process.stdout.readline() == "['0000000000000000']\n"
    process.terminate()
    assert process.communicate(timeout=30)[0] == "handled\n"
    assert process.returncode == 7
