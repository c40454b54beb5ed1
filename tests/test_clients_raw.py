"""Databases, SSH and whatever else is no HTTP, by name on their own ports: real servers, real clients, bytes untouched."""

import glob
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest

import kit
from clients_support import PYTHON, Once, become, caller, client, ordinary_user, running, scripted  # noqa: F401 (fixtures)


# ---- PostgreSQL --------------------------------------------------------------------------------------------

def postgres_program(name):
    found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return found[-1] if found else shutil.which(name)


@pytest.fixture(scope="module")
def database(authority):
    """A real PostgreSQL, with a certificate for db.example.test; its own superuser is the account it runs as."""
    account = ordinary_user()  # PostgreSQL refuses to run as root.
    directory = pathlib.Path(tempfile.mkdtemp(prefix="postern-postgres-"))
    try:
        certificate, key = authority.certificate("db.example.test")
        shutil.copy(certificate, directory / "server.crt")
        shutil.copy(key, directory / "server.key")
        os.chmod(directory / "server.key", 0o600)
        if os.geteuid() == 0:
            for path in (directory, *directory.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        data, port = directory / "data", kit.free_port()
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(directory)}
        subprocess.run([*become(account), postgres_program("initdb"), "-D", data, "-U", "tester", "-A", "trust", "-N", "--no-instructions"], check=True,
                       capture_output=True, env=environment, cwd=directory)
        with running([*become(account), postgres_program("postgres"), "-D", data, "-p", port, "-k", directory, "-F", "-c", "listen_addresses=127.0.0.1",
                      "-c", "ssl=on", "-c", f"ssl_cert_file={directory}/server.crt", "-c", f"ssl_key_file={directory}/server.key"],
                     env=environment, cwd=directory) as server:
            kit.wait_for_port(port, server, 30)
            ready = [postgres_program("pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "20"]
            subprocess.run(ready, check=True, capture_output=True)
            yield port
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def psql(client, port, settings, *options):
    return client.at("db.example.test", port).run(
        "psql", "-X", "-At", f"host=db.example.test port=5432 user=tester dbname=postgres {settings}", "-c", "select 6 * 7", "-c",
        "select length(repeat('x', 3000000))", options=["--allow", "db.example.test:5432", *options], env={"PGCONNECT_TIMEOUT": "20"})


def test_psql_speaks_to_its_database_by_name(client, database):
    run = psql(client, database, "sslmode=disable")
    assert run.stdout == "42\n3000000\n", run.stderr
    record = run.record(kind="tcp", host="db.example.test")
    assert record["decision"] == "allowed" and record["port"] == 5432 and not record["intercepted"]


def test_psql_verifies_the_database_s_own_certificate_through_us(client, database):
    """STARTTLS-like: the handshake comes after a question in the clear, and its end is the server itself."""
    shutil.copy(client.authority.file, client.work / "ca.pem")
    run = psql(client, database, "sslmode=verify-full sslrootcert=ca.pem")
    assert run.stdout == "42\n3000000\n", run.stderr


def test_psql_may_not_reach_a_port_that_is_not_allowed(caller, database):
    run = caller.at("db.example.test", database).run(
        "psql", "-X", "-At", "host=db.example.test port=5433 user=tester dbname=postgres", "-c", "select 1",
        options=["--allow", "db.example.test:5432"])
    assert run.status != 0 and "42" not in run.stdout
    assert run.record(kind="tcp", host="db.example.test", port=5433)["reason"] == "not_in_allow_list"


# ---- Redis -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def redis():
    port = kit.free_port()
    with running(["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"], cwd="/") as server:
        kit.wait_for_port(port, server)
        yield port


def test_redis_cli_works_by_name(client, redis):
    script = "redis-cli -h cache.example.test set greeting hello && redis-cli -h cache.example.test get greeting && redis-cli -h cache.example.test -r 3 incr hits"
    run = client.at("cache.example.test", redis).run("sh", "-c", script, options=["--allow", "cache.example.test:6379"])
    assert run.stdout.split()[:2] == ["OK", "hello"] and len(run.stdout.split()) == 5, run.stdout + run.stderr
    assert {r["host"] for r in run.records if r["kind"] == "tcp"} == {"cache.example.test"}


def test_redis_pipes_many_commands(caller, redis):
    """Mass insertion: both directions are full at once."""
    script = "seq 1 100000 | sed 's/.*/SET key:& value:&/' | redis-cli -h cache.example.test --pipe"
    run = caller.at("cache.example.test", redis).run("sh", "-c", script, options=["--allow", "cache.example.test:6379"])
    assert "errors: 0, replies: 100000" in run.stdout, run.stdout + run.stderr


def test_a_redis_that_is_not_allowed_is_refused_at_once(caller, redis):
    run = caller.at("cache.example.test", redis).run("redis-cli", "-h", "cache.example.test", "ping", options=["--allow", "other.example.test"])
    assert "PONG" not in run.stdout
    # redis-cli tries twice before it complains.
    refused = [r for r in run.records if r["kind"] == "tcp"]
    assert refused and {(r["host"], r["decision"], r["reason"]) for r in refused} == {("cache.example.test", "denied", "not_in_allow_list")}


# ---- SSH and others where the server speaks first ----------------------------------------------------------

def test_a_server_that_speaks_first_is_heard_before_the_client_says_anything(client, scripted):
    said = []

    def script(connection, number):
        connection.sendall(b"SSH-2.0-scripted\r\n")
        said.append(connection.recv(100))
        connection.sendall(b"bye\r\n")

    origin = scripted(script, tls=False)
    run = client.at("ssh.example.test", origin.port).python("""
from talk import Talk
talk = Talk("ssh.example.test", 22, tls=False)
print(talk.until(b"\\r\\n"))
talk.send(b"SSH-2.0-client\\r\\n")
print(talk.rest())
""", options=["--allow", "ssh.example.test:22"])
    assert run.stdout.splitlines() == ["b'SSH-2.0-scripted\\r\\n'", "b'bye\\r\\n'"], run.stderr
    assert said == [b"SSH-2.0-client\r\n"]


def test_a_server_that_speaks_first_is_heard_even_where_a_rule_looks_into_http(caller, scripted):
    origin = scripted(lambda connection, number: (connection.sendall(b"220 mail.example.test ESMTP\r\n"), connection.recv(100)), tls=False)
    run = caller.at("mail.example.test", origin.port).python("""
from talk import Talk
print(Talk("mail.example.test", 25, tls=False).until(b"\\r\\n"))
""", policy=kit.header_rule("mail.example.test"), secrets={"KEY": "canary"})
    assert run.stdout == "b'220 mail.example.test ESMTP\\r\\n'\n", run.stderr + run.log_text


def test_half_closing_a_raw_connection_leaves_the_answer_its_way(caller, scripted):
    def script(connection, number):
        data = b""
        while piece := connection.recv(65536):
            data += piece
        connection.sendall(b"got %d" % len(data))

    origin = scripted(script, tls=False)
    run = caller.at("count.example.test", origin.port).python("""
import socket
from talk import Talk
talk = Talk("count.example.test", 7000, tls=False).send(bytes(3_000_000))
talk.connection.shutdown(socket.SHUT_WR)
print(talk.rest())
""", options=["--allow", "count.example.test:7000"])
    assert run.stdout == "b'got 3000000'\n", run.stderr


@pytest.fixture
def sshd(place):
    """A real sshd that lets its own account in by key. It runs without privilege: root's demands a directory of the system's."""
    account = ordinary_user()
    directory = place / "sshd"
    directory.mkdir()
    for name in ("host", "login"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name], check=True)
    (directory / "authorized").write_text((directory / "login.pub").read_text())
    port = kit.free_port()
    (directory / "config").write_text(f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nAuthorizedKeysFile {directory}/authorized\n"
                                      f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n")
    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
    place.chmod(0o755)
    with running([*become(account), "/usr/sbin/sshd", "-D", "-e", "-f", directory / "config"]) as server:
        kit.wait_for_port(port, server)
        yield port, directory, account.pw_name


def test_ssh_logs_in_by_name_and_verifies_the_host_key(client, sshd):
    port, directory, login = sshd
    shutil.copy(directory / "login", client.work / "login")
    os.chmod(client.work / "login", 0o600)
    key = (directory / "host.pub").read_text().split()
    (client.work / "known").write_text(f"ssh.example.test {key[0]} {key[1]}\n")
    run = client.at("ssh.example.test", port).run(
        "ssh", "-F", "none", "-i", "login", "-o", "UserKnownHostsFile=known", "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o",
        "BatchMode=yes", f"{login}@ssh.example.test", "head -c 2000000 /dev/zero | wc -c", options=["--allow", "ssh.example.test:22"])
    assert run.stdout.strip() == "2000000", run.stderr
    assert run.record(kind="tcp", host="ssh.example.test")["port"] == 22
