"""Everyday HTTP clients, untouched, as root and as an ordinary user: each trusts the sandbox's CA in its own way, and gets its call
authenticated by a key that it never held."""

import hashlib
import os
import shutil
import subprocess

import pytest

import kit
from clients_support import CANARY, SHOWN, PROGRAMS, PYTHON, caller, client, go_program, running  # noqa: F401 (fixtures)

HOST = "api.example.test"
ECHO = 'location / { default_type text/plain; return 200 "auth=$http_authorization agent=$http_user_agent\\n"; }'


@pytest.fixture
def echo(nginx):
    """An origin that says which credential arrived."""
    port = nginx.serve(HOST, locations=ECHO)
    nginx.start()
    return port


def authenticated(client, echo, *command, **more):
    """The program's output, after a check that its call was authenticated and that nothing else knew the key."""
    run = client.at(HOST, echo).run(*command, policy=kit.header_rule(HOST), secrets={"KEY": CANARY}, **more)
    assert run.status == 0, run.stderr + run.stdout
    assert f"auth=Bearer {SHOWN} " in run.stdout, run.stdout + run.stderr
    assert CANARY not in run.log_text
    record = run.record(kind="http", host=HOST)
    assert record["status"] == 200 and record["credentials"] == [{"header": "Authorization", "source": "workspace_secret:KEY"}]
    return run.stdout


def test_curl(client, echo):
    assert "agent=curl/" in authenticated(client, echo, "curl", "-sS", f"https://{HOST}/")


def test_wget(client, echo):
    assert "agent=Wget/" in authenticated(client, echo, "wget", "-qO-", f"https://{HOST}/")


def test_openssl_s_client_verifies_chain_and_name(client, echo):
    output = authenticated(
        client, echo, "sh", "-c",
        f"printf 'GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -connect {HOST}:443 -servername {HOST} "
        f"-verify_return_error -verify_hostname {HOST} -x509_strict -ign_eof 2>&1")
    assert "Verify return code: 0 (ok)" in output and f"DNS:{HOST}" not in output  # s_client prints no SAN; the name check did.


def test_python_with_nothing_but_its_standard_library(client, echo):
    authenticated(client, echo, PYTHON, "-c", f"import urllib.request; print(urllib.request.urlopen('https://{HOST}/').read().decode())")


def test_python_requests(client, echo):
    assert "agent=python-requests" in authenticated(client, echo, PYTHON, "-c", f"import requests; print(requests.get('https://{HOST}/').text)")


def vendored_certifi(client):
    """A certifi as virtual environments have it: a bundle of its own that no administrator ever extended."""
    package = client.work / "vendored/certifi"
    package.mkdir(parents=True)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", package / "cacert.pem")
    (package / "__init__.py").write_text("import os\ndef where(): return os.path.join(os.path.dirname(__file__), 'cacert.pem')\n")
    return {"PYTHONPATH": "vendored"}


def test_python_requests_whose_certifi_is_vendored(client, echo):
    environment = vendored_certifi(client)
    authenticated(client, echo, PYTHON, "-c",
                  f"import requests, certifi; assert 'vendored' in certifi.where(); print(requests.get('https://{HOST}/').text)", env=environment)


def test_without_the_variable_a_vendored_certifi_would_not_trust_us(client, echo):
    """The control of the test above: it is the environment that makes the difference."""
    environment = vendored_certifi(client)
    run = client.at(HOST, echo).run(
        "env", "-u", "REQUESTS_CA_BUNDLE", "-u", "CURL_CA_BUNDLE", PYTHON, "-c", f"import requests, certifi\nfrom requests import adapters\n"
        f"adapters.DEFAULT_CA_BUNDLE_PATH = certifi.where()\nrequests.get('https://{HOST}/')",
        policy=kit.header_rule(HOST), secrets={"KEY": CANARY}, env=environment)
    assert run.status != 0 and "CERTIFICATE_VERIFY_FAILED" in run.stderr


def test_node_fetch(client, echo):
    assert "agent=node" in authenticated(client, echo, "node", "-e", f"fetch('https://{HOST}/').then(a => a.text()).then(t => console.log(t))")


def test_node_https_module(client, echo):
    authenticated(client, echo, "node", "-e", f"require('https').get('https://{HOST}/', a => a.pipe(process.stdout))")


def test_go_with_its_own_resolver_and_trust(client, echo, go_program):
    shutil.copy(go_program, client.work / "client")
    assert "agent=Go-http-client/2.0" in authenticated(client, echo, "./client", f"https://{HOST}/")


@pytest.fixture(scope="session")
def java_class(tmp_path_factory):
    directory = tmp_path_factory.mktemp("java")
    subprocess.run(["javac", "-d", str(directory), str(PROGRAMS / "Client.java")], check=True, timeout=120)
    return directory


@pytest.mark.parametrize("way", ["HttpClient", "HttpsURLConnection"])
def test_java_trusts_by_its_own_key_store(client, echo, java_class, way):
    shutil.copytree(java_class, client.work, dirs_exist_ok=True)
    assert "agent=Java" in authenticated(client, echo, "java", "-XX:TieredStopAtLevel=1", "-cp", ".", "Client", way, f"https://{HOST}/")


# ---- git ---------------------------------------------------------------------------------------------------

GIT_HOST = "git.example.test"
GIT_LOGIN = "Y2xvbmVyOmNhbmFyeS1wYXNz"  # cloner:canary-pass


@pytest.fixture
def git_origin(place, nginx):
    """git's own http-backend behind nginx and fcgiwrap, which lets nobody in without a password."""
    repositories = place / "repositories"
    git = ["git", "-c", "user.name=tester", "-c", "user.email=tester@example.test", "-c", "init.defaultBranch=main"]
    source = place / "source"
    subprocess.run([*git, "init", "-q", str(source)], check=True)
    (source / "story.txt").write_text("once upon a time\n")
    (source / "large.bin").write_bytes(os.urandom(2_000_000))
    subprocess.run([*git, "add", "."], cwd=source, check=True)
    subprocess.run([*git, "commit", "-qm", "the beginning"], cwd=source, check=True)
    subprocess.run([*git, "clone", "-q", "--bare", str(source), str(repositories / "story.git")], check=True)
    (place / "passwords").write_text("cloner:{PLAIN}canary-pass\n")
    listener = place / "fcgiwrap"
    port = nginx.serve(GIT_HOST, locations=f"""
        auth_basic "git"; auth_basic_user_file {place}/passwords;
        location / {{
            fastcgi_pass unix:{listener};
            fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
            fastcgi_param GIT_PROJECT_ROOT {repositories};
            fastcgi_param GIT_HTTP_EXPORT_ALL 1;
            fastcgi_param PATH_INFO $uri;
            fastcgi_param REMOTE_USER $remote_user;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
            fastcgi_param HTTP_GIT_PROTOCOL $http_git_protocol;
            fastcgi_request_buffering off; gzip off;
        }}""")
    environment = {**os.environ, "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*"}
    with running(["/usr/sbin/fcgiwrap", "-s", f"unix:{listener}"], env=environment):
        nginx.start()
        yield port, repositories / "story.git"


def test_git_clones_and_pushes_without_a_password_of_its_own(client, git_origin):
    port, repository = git_origin
    script = f"""set -e
        git clone -q https://{GIT_HOST}/story.git
        cd story
        cat story.txt
        dd if=/dev/urandom of=more.bin bs=1M count=3 status=none
        echo 'and they lived on' >> story.txt
        git add . && git -c user.name=agent -c user.email=agent@example.test commit -qm 'the end'
        git push -q origin HEAD
        git rev-parse HEAD"""
    run = client.at(GIT_HOST, port).run("sh", "-c", script, policy=kit.header_rule(GIT_HOST, value="Basic {LOGIN}"), secrets={"LOGIN": GIT_LOGIN},
                                        env={"GIT_TERMINAL_PROMPT": "0"})
    assert run.status == 0, run.stderr
    first, commit = run.stdout.splitlines()
    assert first == "once upon a time"
    assert subprocess.run(["git", "-c", "safe.directory=*", "rev-parse", "main"], cwd=repository, capture_output=True, text=True).stdout.strip() == commit
    # 3 MB are more than git buffers: the push was a chunked upload.
    push = [r for r in run.records if r["path"] == "/story.git/git-receive-pack"]
    assert push and max(r["request_bytes"] for r in push) > 3_000_000 and all(r["status"] == 200 for r in push)
    assert GIT_LOGIN not in run.log_text + run.stdout + run.stderr


def test_git_without_the_credential_is_refused_by_the_origin(caller, git_origin):
    """The control: this origin does ask for a password."""
    port, _ = git_origin
    run = caller.at(GIT_HOST, port).run("git", "clone", "-q", f"https://{GIT_HOST}/story.git", policy=kit.header_rule(GIT_HOST, value="Basic {LOGIN}"),
                                        secrets={"LOGIN": "d3Jvbmc6d3Jvbmc="}, env={"GIT_TERMINAL_PROMPT": "0"})
    assert run.status != 0 and run.records[-1]["status"] == 401


# ---- bytes stay what they were -----------------------------------------------------------------------------

@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_compressed_answers_arrive_byte_for_byte(caller, nginx, place, encoding):
    body = os.urandom(300_000)
    (place / "body").write_bytes(body)
    port = nginx.serve(HOST, locations=f"location / {{ root {place}; try_files /body =404; add_header Content-Encoding {encoding}; }}")
    nginx.start()
    run = caller.at(HOST, port).run("sh", "-c", f"curl -sS -D head -H 'Accept-Encoding: {encoding}' https://{HOST}/ | sha256sum; cat head",
                                    policy=kit.header_rule(HOST, **kit.UNSEARCHED), secrets={"KEY": CANARY})
    assert run.stdout.startswith(hashlib.sha256(body).hexdigest()), run.stderr
    assert f"content-encoding: {encoding}" in run.stdout.lower() and "content-length: 300000" in run.stdout.lower()


def test_a_big_upload_with_expect_100_continue_by_curl(caller, scripted_upload):
    port, seen = scripted_upload
    script = f"head -c 5000000 /dev/urandom > body; sha256sum < body; curl -sS -H 'Expect: 100-continue' -T body https://{HOST}/up"
    run = caller.at(HOST, port).run("sh", "-c", script, policy=kit.header_rule(HOST), secrets={"KEY": CANARY})
    sent, answered = run.stdout.split()[0], run.stdout.split()[-1]
    assert answered == sent == seen[0], run.stdout + run.stderr


@pytest.fixture
def scripted_upload(authority):
    """Answers a PUT with the SHA-256 of its body."""
    seen = []

    def script(connection, number):
        head = origin.read_head(connection)
        head, _, body = head.partition(b"\r\n\r\n")
        length = int([line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")][0].split(b":")[1])
        digest = hashlib.sha256(body)
        count = len(body)
        while count < length:
            piece = connection.recv(65536)
            digest.update(piece)
            count += len(piece)
        seen.append(digest.hexdigest())
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())

    origin = kit.Scripted(script, authority, [HOST])
    yield origin.port, seen
    origin.stop()
