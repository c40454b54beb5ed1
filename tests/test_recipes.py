"""docs/recipes: each policy as it stands in its page, against real parts. Programs ask what they always ask; where it goes only Postern knows."""

import base64
import gzip
import hashlib
import json
import os
import pathlib
import re
import subprocess
import urllib.request

import pytest

import clients_support
import kit
from attacks_support import Origin, answer_with
from clients_support import CANARY, PYTHON, client  # noqa: F401 (fixture)
from test_clients_packages import NPM_CACHE, npm_package, wheel

RECIPES = kit.ROOT / "docs/recipes"


def recipe(name):
    page = (RECIPES / f"{name}.md").read_text()
    found = re.search(rf"<!-- recipe: {name} -->\n```yaml\n(.*?)```", page, re.S)
    assert found, f"docs/recipes/{name}.md has no policy"
    return found.group(1)


def test_every_recipe_is_run_here_and_listed():
    pages = {path.stem for path in RECIPES.glob("*.md")} - {"README"}
    run = set(re.findall(r'recipe\("([\w-]+)"\)', pathlib.Path(__file__).read_text()))
    assert pages == run
    listed = (RECIPES / "README.md").read_text()
    assert all(f"({page}.md)" in listed for page in pages)


def verdaccio_package():
    """Its node_modules. One of its dependencies asks for a moving tag of node-fetch, which not every registry has."""
    directory = clients_support.CACHE / "verdaccio"
    if not (directory / "node_modules/verdaccio/bin/verdaccio").exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "package.json").write_text(json.dumps({"name": "registry", "version": "1.0.0", "dependencies": {"verdaccio": "6"},
                                                            "overrides": {"node-fetch": "2.7.0"}}))
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"], cwd=directory, check=True, timeout=300,
                       capture_output=True)
    return directory / "node_modules"


def put(url, document, token=None):
    asked = urllib.request.Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"}, method="PUT")
    if token:
        asked.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.load(answer)


@pytest.fixture
def verdaccio(place, nginx):
    """A real registry behind TLS, with one package that only holders of a token may have: (port, token)."""
    program = verdaccio_package()
    home = place / "verdaccio"
    home.mkdir()
    port = kit.free_port()
    (home / "config.yaml").write_text(f"""
storage: {home}/storage
auth: {{htpasswd: {{file: {home}/htpasswd, max_users: 10}}}}
uplinks: {{}}
packages: {{'**': {{access: $authenticated, publish: $authenticated}}}}
log: {{type: stdout, format: json, level: warn}}
""")
    process = subprocess.Popen(["node", str(program / "verdaccio/bin/verdaccio"), "--config", str(home / "config.yaml"), "--listen", f"127.0.0.1:{port}"],
                               cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HOME": str(home)})
    try:
        kit.wait_for_port(port, process, 60)
        token = put(f"http://127.0.0.1:{port}/-/user/org.couchdb.user:ci", {"name": "ci", "password": "pass-0123456789"})["token"]
        archive = npm_package()
        version = {"name": "leftish", "version": "1.0.0", "main": "index.js",
                   "dist": {"tarball": f"http://127.0.0.1:{port}/leftish/-/leftish-1.0.0.tgz", "shasum": hashlib.sha1(archive).hexdigest(),
                            "integrity": "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()}}
        put(f"http://127.0.0.1:{port}/leftish",
            {"_id": "leftish", "name": "leftish", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
             "_attachments": {"leftish-1.0.0.tgz": {"content_type": "application/octet-stream", "data": base64.b64encode(archive).decode(),
                                                    "length": len(archive)}}}, token)
        front = nginx.serve("verdaccio.example.net", locations=f"""location / {{ proxy_pass http://127.0.0.1:{port}; proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-Proto $http_x_forwarded_proto; }}""")
        nginx.start()
        yield front, token
    finally:
        process.terminate()
        process.wait(20)


def test_npm_installs_from_verdaccio(client, verdaccio):
    port, token = verdaccio
    (client.work / "package.json").write_text('{"name": "app", "version": "1.0.0"}')
    run = client.at("verdaccio.example.net", port).run(
        "sh", "-c", "npm install --no-audit --no-fund leftish && node -e \"console.log(require('leftish')())\"", policy=recipe("npm"),
        secrets={"NPM_TOKEN": token}, env={**NPM_CACHE, "npm_config_registry": "https://registry.example.com/"}, timeout=120)
    assert run.status == 0, run.stderr
    assert run.stdout.endswith("leftish works\n")
    fetched = {r["path"]: r for r in run.records if r["kind"] == "http"}
    assert fetched["/leftish"]["status"] == fetched["/leftish/-/leftish-1.0.0.tgz"]["status"] == 200
    assert {r["host"] for r in fetched.values()} == {"registry.example.com"}
    assert {r["rewritten_to"] for r in fetched.values()} == {"verdaccio.example.net:443"}
    assert "https://registry.example.com/leftish/-/leftish-1.0.0.tgz" in (client.work / "package-lock.json").read_text()
    assert token not in run.log_text + run.stdout + run.stderr


def test_pip_installs_from_an_index_of_ones_own(client, place, nginx):
    name = "rightish-1.0-py3-none-any.whl"
    files = place / "index"
    files.mkdir()
    (files / name).write_bytes(wheel())
    digest = hashlib.sha256((files / name).read_bytes()).hexdigest()
    (files / "page.html").write_text(f'<!DOCTYPE html><html><body><a href="/files/{name}#sha256={digest}">{name}</a></body></html>')
    login = base64.b64encode(f"ci:{CANARY}".encode()).decode()
    port = nginx.serve("packages.example.net", locations=f"""if ($http_authorization != "Basic {login}") {{ return 401; }} root {files};
        location = /pypi/simple/rightish/ {{ default_type text/html; try_files /page.html =404; }}
        location = /pypi/files/{name} {{ try_files /{name} =404; }}""")
    nginx.start()
    run = client.at("packages.example.net", port).run(
        "sh", "-c", f"{PYTHON} -m pip install --no-cache-dir --disable-pip-version-check --target site rightish && "
        f'PYTHONPATH=site {PYTHON} -c "import rightish; print(rightish.works())"', policy=recipe("pip"), secrets={"INDEX_LOGIN": login},
        env={"PIP_INDEX_URL": "https://pypi.example.com/simple/", "PIP_CONFIG_FILE": "/dev/null"}, timeout=120)
    assert run.status == 0, run.stderr
    assert run.stdout.endswith("rightish works\n")
    assert [(r["path"], r["status"]) for r in run.records if r["kind"] == "http"] == [("/simple/rightish/", 200), (f"/files/{name}", 200)]
    assert CANARY not in run.log_text + run.stdout + run.stderr


def test_apt_reads_a_mirror_of_ones_own(client, place, nginx):
    """An unsigned repository with one package, which apt-get finds and downloads, with directories of its own."""
    root = place / "mirror/debian-mirror/debian"
    (root / "pool").mkdir(parents=True)
    build = place / "ours"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "DEBIAN/control").write_text("Package: ours\nVersion: 1.0\nArchitecture: all\nMaintainer: Tests <tests@example.com>\nDescription: one\n")
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", build, root / "pool/ours_1.0_all.deb"], check=True, capture_output=True)
    package = (root / "pool/ours_1.0_all.deb").read_bytes()
    index = (build / "DEBIAN/control").read_text() + f"Filename: pool/ours_1.0_all.deb\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n"
    (root / "Packages.gz").write_bytes(gzip.compress(index.encode()))
    port = nginx.serve("mirror.example.net", locations=f"location / {{ root {place}/mirror; }}")
    nginx.start()
    script = """
mkdir -p apt/lists/partial apt/cache/archives/partial apt/etc && : > apt/status
echo 'deb [trusted=yes] http://deb.example.com/debian ./' > apt/sources.list
set -- -q -o Dir::State=$PWD/apt -o Dir::State::status=$PWD/apt/status -o Dir::Cache=$PWD/apt/cache -o Dir::Etc::sourcelist=$PWD/apt/sources.list \
  -o Dir::Etc::sourceparts=- -o Dir::Etc::main=/dev/null -o Dir::Etc::parts=- -o APT::Sandbox::User=root -o Debug::NoLocking=true
apt-get "$@" update && apt-get "$@" download ours && dpkg-deb -f ours_1.0_all.deb Package
"""
    run = client.at("mirror.example.net", port).run("sh", "-c", script, policy=recipe("apt"), timeout=120)
    assert run.status == 0, run.stdout + run.stderr
    assert run.stdout.endswith("ours\n")
    fetched = {r["path"] for r in run.records if r["kind"] == "http" and r["status"] == 200}
    assert {"/debian/./Packages.gz", "/debian/pool/ours_1.0_all.deb"} & fetched or any(path.endswith("ours_1.0_all.deb") for path in fetched), fetched
    assert {r["host"] for r in run.records if r["kind"] == "http"} == {"deb.example.com"}


def test_calls_to_a_model_go_through_the_gateway(client, authority):
    gateway = Origin(lambda request: answer_with("200 OK", json.dumps({"path": request.target}), "Content-Type: application/json"),
                     authority=authority, names=["gateway.example.net"])
    try:
        run = client.at("gateway.example.net", gateway.port).run(
            "sh", "-c", 'curl -sS -H "Authorization: Bearer $OPENAI_API_KEY" -H "OpenAI-Organization: org-1" -H "Content-Type: application/json" '
            "-d '{}' https://api.openai.com/v1/chat/completions; curl -sS -o /dev/null -w '\n%{http_code}' https://gateway.example.net/", policy=recipe("llm-gateway"),
            secrets={"GATEWAY_KEY": CANARY})
    finally:
        gateway.stop()
    assert run.stdout == '{"path": "/openai/v1/chat/completions"}\n403', run.stdout + run.stderr
    request = gateway.requests[0]
    assert request.fields["authorization"] == [f"Bearer {CANARY}"]
    assert request.fields["host"] == ["gateway.example.net"] and request.fields["x-agent"] == ["run"]
    assert "openai-organization" not in request.fields and request.body == b"{}"
