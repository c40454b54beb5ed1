"""What an operator does with a server's data: another master key, backups, and restoring them; interrupted, and with the wrong things."""

import os
import random
import secrets
import shutil
import signal
import stat
import subprocess
import time

import pytest

import kit
from clients_support import WAIT, become
from serve_support import server  # noqa: F401 (a fixture)
from test_serve_attacks import make, run, set_secret


def command(server, *words, env=None):
    prefix = become(server.entry) if server.entry else []
    environment = {"PATH": os.environ["PATH"], "HOME": str(server.directory), **(env or {})}
    return subprocess.Popen([*prefix, kit.POSTERN, *map(str, words)], env=environment, cwd=server.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def done(server, *words, status=0, env=None):
    process = command(server, *words, env=env)
    out, errors = process.communicate(timeout=WAIT)
    assert process.returncode == status, (words, out, errors)
    return out + errors


def key_file(server, name):
    file = server.directory / name
    file.write_text(secrets.token_hex(32))
    file.chmod(0o600)
    if server.entry:
        os.chown(file, server.entry.pw_uid, server.entry.pw_gid)
    return f"file:{file}"


def with_secret(server, *options):
    """A server, started, whose box `one` needs a secret to start."""
    server.start(*options)
    set_secret(server, "TOKEN", "canary-rotation")
    rules = {"rules": [{"name": "api", "match_hosts": ["api.example.test"], "headers": [{"name": "X-Key", "type": "workspace_secret", "value": "{TOKEN}"},
                                                                                        {"name": "X-Own", "type": "opaque", "value": "canary-own"}]}]}
    return make(server, "one", proxy_config=rules)


def works(server):
    """Secrets are read, and sealed."""
    assert server.call("GET", "//ready")[0] == 200
    assert server.call("POST", "/boxes/one/stop", {})[0] < 300
    assert server.call("POST", "/boxes/one/start", {})[0] == 202, server.said()
    set_secret(server, "MORE", "canary-more")
    return True


def test_the_master_key_is_rotated_beside_a_server(server):
    with_secret(server)
    before = (server.data / "master.key").read_bytes()
    said = done(server, "key", "rotate", "--data", server.data)
    assert "2 data keys" in said and "Backups made before" in said, said
    after = (server.data / "master.key").read_bytes()
    assert after != before and not (server.data / "master.key.next").exists()
    assert stat.S_IMODE((server.data / "master.key").stat().st_mode) == 0o600
    assert works(server)
    # What others make beside it is known here, too.
    key = done(server, "key", "create", "--data", server.data, "--workspace", "later").split()[0]
    assert server.call("GET", "/boxes", key=key)[0] == 200
    assert server.call("POST", "//api/v1/workspaces/current/secrets", [{"key": "A", "value": "b"}], key=key)[0] == 200
    server.stop()
    server.start()
    assert works(server)
    # The old key opens nothing any more.
    server.stop()
    (server.data / "master.key").write_bytes(before)
    server.start()
    assert server.call("GET", "//ready")[0] == 503


def test_a_rotation_that_is_killed_at_any_moment_goes_on(server):
    with_secret(server)
    dice = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    killed = 0
    for turn in range(25):
        process = command(server, "key", "rotate", "--data", server.data)
        time.sleep(dice.uniform(0, 0.06))  # The moment is what is tested.
        process.send_signal(signal.SIGKILL)
        killed += process.wait(WAIT) != 0
        if turn % 5 == 0:
            server.kill()
            server.start()
        assert works(server), turn
    done(server, "key", "rotate", "--data", server.data)
    assert not (server.data / "master.key.next").exists()
    assert works(server) and killed > 3


def test_between_the_store_and_the_file_is_no_key_lost(server):
    """What a rotation leaves that died after the store had the new key and before master.key had it."""
    with_secret(server)
    old = (server.data / "master.key").read_bytes()
    done(server, "key", "rotate", "--data", server.data)
    server.stop()

    def half():
        shutil.copy2(server.data / "master.key", server.data / "master.key.next")
        (server.data / "master.key").write_bytes(old)
        if server.entry:
            os.chown(server.data / "master.key.next", server.entry.pw_uid, server.entry.pw_gid)

    half()
    server.start()
    assert works(server)
    server.stop()
    half()
    assert "cut short" in done(server, "key", "rotate", "--data", server.data)
    server.start()
    assert works(server)


def test_a_master_key_that_is_elsewhere_is_rotated_while_no_server_runs(server):
    old, new, other = (key_file(server, name) for name in ("old", "new", "other"))
    with_secret(server, "--master-key", old)
    rotate = ["key", "rotate", "--data", server.data]
    said = done(server, *rotate, "--master-key", old, "--new-master-key", new, status=1)
    assert "a server runs" in said and "Stop it" in said, said
    assert works(server)
    server.stop()
    assert "--new-master-key" in done(server, *rotate, "--master-key", old, status=1)
    assert "--master-key" in done(server, *rotate, "--new-master-key", new, status=1)
    assert "nothing was changed" in done(server, *rotate, "--master-key", other, "--new-master-key", new, status=1)
    assert "cannot be read" in done(server, *rotate, "--master-key", old, "--new-master-key", "file:/nowhere", status=1)
    done(server, *rotate, "--new-master-key", new, "--master-key", old)
    assert "already" in done(server, *rotate, "--new-master-key", new, "--master-key", old)
    assert not (server.data / "master.key").exists()
    server.start("--master-key", new)
    assert works(server)
    server.stop()
    server.start("--master-key", old)
    assert server.call("GET", "//ready")[0] == 503


def test_a_backup_is_made_beside_a_server_and_restored(server):
    box = with_secret(server)
    run(server, box, "echo kept > file")
    backup = server.directory / "backup.db"
    said = done(server, "backup", "--data", server.data, backup)
    assert "1 sandboxes" in said and "master key" in said and "boxes/" in said, said
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    content = backup.read_bytes()
    assert b"canary" not in content and server.key.encode() not in content and (server.data / "master.key").read_bytes().strip() not in content
    assert "exists" in done(server, "backup", "--data", server.data, backup, status=1)
    make(server, "later")
    assert "a server runs" in done(server, "restore", backup, "--data", server.data, status=1)
    server.stop()
    assert "exists" in done(server, "restore", backup, "--data", server.data, status=1)

    # Beside the files of its boxes.
    (server.data / "store.db").rename(server.directory / "old-store.db")
    for suffix in ("-wal", "-shm"):
        (server.data / f"store.db{suffix}").unlink(missing_ok=True)
    assert "1 sandboxes" in done(server, "restore", backup, "--data", server.data)
    server.start()
    assert [found["name"] for found in server.call("GET", "/boxes")[1]["sandboxes"]] == ["one"]
    assert server.call("GET", "/boxes/one")[1]["status"] == "stopped"
    assert run(server, box, "cat file")["stdout"] == "kept\n"
    assert works(server)
    server.stop()

    # On another machine, without its key at first.
    key = (server.data / "master.key").read_bytes()
    server.data.rename(server.directory / "gone")
    assert "master key is not here" in done(server, "restore", backup, "--data", server.data)
    server.start()
    assert server.call("GET", "//ready")[0] == 503
    server.stop()
    (server.data / "master.key").write_bytes(key)
    server.start()
    found = server.call("GET", "/boxes/one")[1]
    assert found["status"] == "failed" and "files are not there" in found["status_message"], found
    status, answer = server.call("POST", f"/{box['id']}/execute", {"command": "cat file"})
    assert status == 409 and "files are not there" in str(answer), answer
    assert server.call("POST", "/boxes/one/start", {})[0] == 202
    assert run(server, box, "cat file")["exit_code"] == 1
    assert works(server)


def test_what_is_no_good_backup_is_not_restored(server):
    with_secret(server)
    backup = server.directory / "backup.db"
    done(server, "backup", "--data", server.data, backup)
    server.stop()
    whole = backup.read_bytes()
    fresh = server.directory / "fresh"
    bad = server.directory / "bad.db"
    middle = len(whole) // 2 & ~4095
    for content in (whole[: len(whole) // 2], whole[:100], b"", b"not a database " * 1000, whole[:middle] + os.urandom(8192) + whole[middle + 8192:]):
        bad.write_bytes(content)
        if server.entry:
            os.chown(bad, server.entry.pw_uid, server.entry.pw_gid)
        done(server, "restore", bad, "--data", fresh, status=1)
        assert not (fresh / "store.db").exists()
    done(server, "restore", server.directory / "nowhere.db", "--data", fresh, status=1)
    wrong = key_file(server, "wrong")
    assert "another one" in done(server, "restore", backup, "--data", fresh, "--master-key", wrong, status=1)
    assert not (fresh / "store.db").exists()
    done(server, "restore", backup, "--data", fresh, "--master-key", f"file:{server.data / 'master.key'}")
    assert (fresh / "store.db").exists()


def test_a_backup_that_is_killed_leaves_none(server):
    server.start()
    dice = random.Random(seed := random.randrange(1 << 32))
    print("seed", seed)
    for turn in range(10):
        file = server.directory / f"backup-{turn}.db"
        process = command(server, "backup", "--data", server.data, file)
        time.sleep(dice.uniform(0, 0.05))  # The moment is what is tested.
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT)
        if file.exists():
            fresh = server.directory / f"fresh-{turn}"
            done(server, "restore", file, "--data", fresh)
    done(server, "backup", "--data", server.data, server.directory / "last.db")


@pytest.mark.parametrize("words", [["key", "rotate"], ["backup", "file.db"]])
def test_without_a_store_there_is_nothing_to_do(server, words):
    assert "has no store" in done(server, *words, "--data", server.directory / "nothing", status=1)
    assert not (server.directory / "nothing").exists()


def test_a_data_directory_may_be_said_as_seen_from_here(server):
    server.data = server.directory / "near"
    server.start("--data", "./near/")
    box = make(server, "one")
    assert run(server, box, "echo hello")["stdout"] == "hello\n"
    assert "master key" in done(server, "backup", "--data", "near", "backup.db")
