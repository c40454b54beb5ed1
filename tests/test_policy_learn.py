"""`postern policy learn`: what a program needed is what the learnt policy allows, and nothing else."""

import os
import subprocess

import pytest

import kit
from attacks_support import Origin
from clients_support import WAIT

API, OTHER, PLAIN = "api.example.test", "other.example.test", "plain.example.test"


@pytest.fixture
def world(place, authority):
    secure = Origin(authority=authority, names=[API, OTHER])
    plain = Origin()
    postern = kit.Postern(place, authority).at(API, secure.port).at(OTHER, secure.port).at(PLAIN, plain.port)
    yield postern, secure
    secure.stop()
    plain.stop()


def learn(postern, *words, command=()):
    options = [word for entry in postern.resolve for word in ("--resolve", entry)]
    if command:
        words = [*words, *kit.visible_tree(), *options, "--origin-ca", postern.authority.file, "--", *command]
    return subprocess.run([kit.POSTERN, "policy", "learn", *map(str, words)], cwd=postern.work, env=postern.environment(), capture_output=True, text=True, timeout=60)


PROGRAM = f"curl -sS https://{API}/v1/models -o /dev/null && curl -sS -d x https://{API}/v1/chat -o /dev/null && curl -sS http://{PLAIN}/status -o /dev/null"


def test_the_same_program_runs_under_what_was_learnt_and_no_other(world):
    postern, _ = world
    policy = postern.directory / "learnt.yaml"
    done = learn(postern, "--look-into", API, "--out", policy, command=["sh", "-c", PROGRAM])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
    text = policy.read_text()
    assert text.startswith("# Learnt by `postern policy learn` from 3 calls.\n") and f'- "{API}:443"\n' in text and f'- "{PLAIN}:80"\n' in text
    assert list((postern.state).glob("learn-*")) == []
    again = postern.run("sh", "-c", PROGRAM, policy=text)
    assert again.status == 0 and {record["decision"] for record in again.records} == {"allowed"}
    denied = postern.run("sh", "-c", f"curl -sS https://{OTHER}/; curl -sS https://{API}/v1/other; curl -sS -X DELETE https://{API}/v1/models; curl -sS http://{PLAIN}/x",
                         policy=text)
    assert [record["reason"] for record in denied.records if record["kind"] != "dns"] == ["not_in_allow_list", "denied_by_rule", "denied_by_rule", "denied_by_rule"]


def test_without_a_look_inside_only_destinations_are_learnt(world):
    postern, secure = world
    done = learn(postern, command=["sh", "-c", f"curl -sSk https://{API}/v1/models; exit 3"])
    assert done.returncode == 3 and f'- "{API}:443"\n' in done.stdout and "rules" not in done.stdout, done.stdout + done.stderr
    assert len(secure.requests) == 1


def test_private_addresses_stay_closed_meanwhile(world):
    postern, _ = world
    done = learn(postern, command=["sh", "-c", f"curl -sS -m 5 http://127.0.0.1:1/; curl -sS -m 5 http://169.254.169.254/; curl -sS -m 5 http://10.1.2.3/; curl -sSk https://{API}/ >/dev/null"])
    assert done.stdout.endswith(f'allow_list:\n    - "{API}:443"\n'), done.stdout


def test_a_log_is_enough(world):
    postern, _ = world
    run = postern.run("sh", "-c", PROGRAM, policy={"rules": [{"name": "all", "match_hosts": [API], "headers": []}]}, options=["--allow", "*", "--log-strict", "--log-chain"])
    log = postern.directory / f"log-{postern.serial}.jsonl"
    assert run.status == 0
    exact, prefix, none = (learn(postern, "--from", log, "--paths", paths).stdout for paths in ("exact", "prefix", "none"))
    assert '- "/v1/models"\n' in exact and '- "/v1/*"\n' in prefix and "match_paths" not in none
    missing = learn(postern, "--from", "nowhere.jsonl")
    assert missing.returncode == 125 and "cannot be read" in missing.stderr
    nothing = subprocess.run([kit.POSTERN, "policy", "learn"], env={"PATH": os.environ["PATH"], "HOME": str(postern.directory)}, capture_output=True, text=True, timeout=WAIT)
    assert nothing.returncode == 125 and "nothing to learn from" in nothing.stderr
