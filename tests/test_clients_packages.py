"""Package managers, untouched: they install from registries that ask for a token which only Postern has, and give up at once, with the
reason, where they may not go."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile

import pytest

import kit
from clients_support import CANARY, PYTHON, caller, client  # noqa: F401 (fixtures)

NPM = "registry.example.test"
PYPI = "pypi.example.test"
GUARD = f'if ($http_authorization != "Bearer {CANARY}") {{ return 401; }}'


def npm_package():
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in (("package/package.json", json.dumps({"name": "leftish", "version": "1.0.0", "main": "index.js"})),
                           ("package/index.js", "module.exports = () => 'leftish works';\n")):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive.getvalue()


@pytest.fixture
def registry(place, nginx):
    """An npm registry of static files for holders of the token."""
    files = place / "npm"
    files.mkdir()
    package = npm_package()
    (files / "leftish-1.0.0.tgz").write_bytes(package)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(package).digest()).decode()
    version = {"name": "leftish", "version": "1.0.0", "main": "index.js",
               "dist": {"tarball": f"https://{NPM}/leftish/-/leftish-1.0.0.tgz", "integrity": integrity}}
    (files / "leftish.json").write_text(json.dumps({"name": "leftish", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}))
    port = nginx.serve(NPM, locations=f"""{GUARD} root {files};
        location = /leftish {{ default_type application/json; try_files /leftish.json =404; }}
        location = /leftish/-/leftish-1.0.0.tgz {{ try_files /leftish-1.0.0.tgz =404; }}
        location / {{ default_type application/json; return 404 '{{}}'; }}""")
    nginx.start()
    return port


# The home in the sandbox is read-only: the cache goes where the program may write.
NPM_CACHE = {"npm_config_cache": "/tmp/npm"}


def test_npm_installs_from_a_private_registry_without_a_token(client, registry):
    (client.work / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    run = client.at(NPM, registry).run(
        "sh", "-c", f"npm install --no-audit --no-fund --registry https://{NPM}/ leftish && node -e \"console.log(require('leftish')())\"",
        policy=kit.header_rule(NPM), secrets={"KEY": CANARY}, env=NPM_CACHE, timeout=120)
    assert run.status == 0, run.stderr
    assert run.stdout.endswith("leftish works\n")
    fetched = {r["path"]: r["status"] for r in run.records if r["kind"] == "http"}
    assert fetched["/leftish"] == 200 and fetched["/leftish/-/leftish-1.0.0.tgz"] == 200
    assert CANARY not in run.log_text + run.stdout + run.stderr + (client.work / "package-lock.json").read_text()


def test_npm_stops_at_once_on_a_denied_registry_and_says_why(client):
    (client.work / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    run = client.run("npm", "install", "--no-audit", "--no-fund", "--registry", "https://elsewhere.example.test/", "leftish",
                     policy=kit.header_rule(NPM), secrets={"KEY": CANARY}, env=NPM_CACHE, timeout=60)
    assert run.status == 1
    assert "E403" in run.stderr and "403 Forbidden" in run.stderr, run.stderr
    # npm asks twice by itself; a retry, which it does after waits of ten seconds and more, would be a third.
    refused = [r for r in run.records if r["kind"] == "http"]
    assert 1 <= len(refused) <= 2 and {r["reason"] for r in refused} == {"not_in_allow_list"}


def wheel():
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        contents = {"rightish.py": "def works(): return 'rightish works'\n",
                    "rightish-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: rightish\nVersion: 1.0\n",
                    "rightish-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
        record = "".join(f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}\n"
                         for name, text in contents.items())
        for name, text in {**contents, "rightish-1.0.dist-info/RECORD": record + "rightish-1.0.dist-info/RECORD,,\n"}.items():
            file.writestr(name, text)
    return archive.getvalue()


@pytest.fixture
def index(place, nginx):
    """A package index (PEP 503) of static files for holders of the token."""
    files = place / "pypi"
    files.mkdir()
    name = "rightish-1.0-py3-none-any.whl"
    (files / name).write_bytes(wheel())
    digest = hashlib.sha256((files / name).read_bytes()).hexdigest()
    (files / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="/files/{name}#sha256={digest}">{name}</a></body></html>')
    port = nginx.serve(PYPI, locations=f"""{GUARD} root {files};
        location = /simple/rightish/ {{ default_type text/html; try_files /index.html =404; }}
        location = /files/{name} {{ try_files /{name} =404; }}""")
    nginx.start()
    return port


def installed(client, index, *pip):
    run = client.at(PYPI, index).run(
        "sh", "-c", f'"$@" install --no-cache-dir --disable-pip-version-check --index-url https://{PYPI}/simple/ --target site rightish && '
        f'PYTHONPATH=site {PYTHON} -c "import rightish; print(rightish.works())"', "sh", *pip,
        policy=kit.header_rule(PYPI), secrets={"KEY": CANARY}, timeout=120)
    assert run.status == 0, run.stderr
    assert run.stdout.endswith("rightish works\n")
    assert [r["status"] for r in run.records if r["kind"] == "http"] == [200, 200]
    assert CANARY not in run.log_text + run.stdout + run.stderr


def test_pip_installs_from_a_private_index_without_a_token(client, index):
    installed(client, index, PYTHON, "-m", "pip")


def test_pip_of_a_virtual_environment_does_too(caller, index):
    subprocess.run([PYTHON, "-m", "venv", str(caller.work / "venv")], check=True, timeout=120)
    installed(caller, index, "venv/bin/python3", "-m", "pip")


def test_pip_stops_at_once_on_a_denied_index_and_says_why(client):
    run = client.run(PYTHON, "-m", "pip", "-vv", "install", "--no-cache-dir", "--disable-pip-version-check", "--index-url",
                     "https://elsewhere.example.test/simple/", "--target", "site", "rightish",
                     policy=kit.header_rule(PYPI), secrets={"KEY": CANARY}, timeout=60)
    assert run.status != 0
    said = run.stdout + run.stderr
    assert "403 Client Error" in said and "Retrying" not in said, said
    assert run.record(kind="http", host="elsewhere.example.test")["reason"] == "not_in_allow_list"
