"""A real browser: Chromium, driven by Playwright, with a page of nginx's that calls origins of Node and Python."""

import json
import shutil
import subprocess

import pytest

import kit
from clients_support import CACHE, CANARY, SHOWN, PROGRAMS, PYTHON, Client, caller, npm_package, running  # noqa: F401 (fixtures)

WWW, API, OLD = "www.example.test", "api.example.test", "old.example.test"

PAGE = """<!doctype html><meta charset="utf-8"><title>page</title><script type="module">
const api = 'https://api.example.test', old = 'https://old.example.test';
const told = {style: getComputedStyle(document.body).color};
const lines = async answer => {
  const seen = [], reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let piece; !(piece = await reader.read()).done;) { seen.push(piece.value); await fetch(api + '/seen?/lines'); }
  return seen;
};
const events = new Promise(resolve => {
  const seen = [], source = new EventSource(api + '/events');
  source.onmessage = event => { seen.push(event.data); fetch(api + '/seen?/events'); if (seen.length == 3) { source.close(); resolve(seen); } };
});
const socket = new Promise((resolve, reject) => {
  const seen = [], socket = new WebSocket('wss://api.example.test/socket');
  socket.onmessage = event => { seen.push(event.data); if (seen.length == 1) socket.send('grüße'); else { socket.close(); resolve(seen); } };
  socket.onerror = () => reject(new Error('the WebSocket failed'));
});
try {
  told.who = await (await fetch(api + '/who', {headers: {authorization: 'Bearer mine'}})).json();
  told.many = (await Promise.all([...Array(50).keys()].map(n => fetch(api + '/who?' + n).then(a => a.json())))).every(a => a.authorization == told.who.authorization);
  told.upload = await (await fetch(api + '/echo', {method: 'POST', body: new Uint8Array(3 << 20)})).text();
  told.lines = await lines(await fetch(api + '/lines'));
  told.events = await events;
  told.socket = await socket;
  told.old = await (await fetch(old + '/')).json();
  told.refused = (await fetch(api + '/closed', {method: 'DELETE'}).catch(error => error)).status || 'hidden by CORS';
} catch (error) { told.error = String(error); }
window.told = told;
</script><link rel="stylesheet" href="/style.css"><body>hello"""

OLD_ORIGIN = """
import http.server, json, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"authorization": self.headers["Authorization"], "version": self.request_version}).encode()
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def playwright():
    """Playwright without browsers of its own, kept in build/ from one run to the next."""
    return npm_package(CACHE / "browser", "playwright-core", "1")


@pytest.fixture
def world(place, authority):
    """Three origins: the name and port of each."""
    nginx = kit.Nginx(place / "nginx", authority)
    www = place / "www"
    www.mkdir()
    (www / "index.html").write_text(PAGE)
    (www / "style.css").write_text("body { color: rgb(1, 2, 3); }")
    ports = {WWW: nginx.serve(WWW, http2=True, locations=f"location / {{ root {www}; types {{ text/html html; text/css css; }} }}")}
    nginx.start()
    ports.update({API: kit.free_port(), OLD: kit.free_port()})
    try:
        with running(["node", PROGRAMS / "browser_origin.js", ports[API], *authority.certificate(API)]) as node, \
                running([PYTHON, "-c", OLD_ORIGIN, ports[OLD], *authority.certificate(OLD)]) as old:
            kit.wait_for_port(ports[API], node)
            kit.wait_for_port(ports[OLD], old)
            yield ports
    finally:
        nginx.stop()


def test_a_page_in_chromium_uses_everything_that_the_web_has(caller, world, playwright):
    shutil.copytree(playwright, caller.work / "node_modules")
    shutil.copy(PROGRAMS / "browser.js", caller.work)
    # Chromium trusts what this database says, and nothing else.
    database = caller.home / ".pki/nssdb"
    database.mkdir(parents=True)
    subprocess.run(["certutil", "-N", "-d", f"sql:{database}", "--empty-password"], check=True)
    policy = {"rules": [{"name": "closed", "match_hosts": [API], "match_methods": ["DELETE"], "action": "deny"},
                        *(rule for host in world for rule in kit.header_rule(host, name=host)["rules"])]}
    for host, port in world.items():
        caller.at(host, port)
    run = caller.run("node", "browser.js", f"https://{WWW}/", policy=policy, secrets={"KEY": CANARY}, timeout=150,
                     env={"TMPDIR": "/tmp", "XDG_CONFIG_HOME": "/tmp/config"})
    shown = run.stdout + run.stderr + run.log_text[-3000:]
    assert run.status == 0, shown
    page, denied = [json.loads(line) for line in run.stdout.splitlines()]
    assert "error" not in page, shown
    assert page["status"] == 200 and page["security"]["issuer"].startswith("Postern CA")
    assert page["style"] == "rgb(1, 2, 3)"
    assert page["who"] == {"authorization": f"Bearer {SHOWN}", "version": "2.0"}
    assert page["many"] is True
    assert page["upload"] == str(3 << 20)
    assert page["lines"] == ["0\n", "1\n", "2\n"], "each is written when the one before was read"
    assert page["events"] == ["0", "1", "2"]
    assert page["socket"] == [f"key: Bearer {SHOWN}", "heard grüße"]
    assert page["old"] == {"authorization": f"Bearer {SHOWN}", "version": "HTTP/1.1"}
    assert page["refused"] in (403, "hidden by CORS")
    assert denied["denied"] == 403 and denied["reason"] == "not_in_allow_list" and "it is not on its allow list" in denied["text"]
    records = [r for r in run.records if r["kind"] == "http"]
    assert {r["host"] for r in records if r["decision"] == "allowed"} == set(world)
    assert {r["protocol"] for r in records if r["host"] == API and r["path"] != "/socket"} == {"HTTP/2"}
    assert any(r["method"] == "DELETE" and r["reason"] == "denied_by_rule" for r in records) or page["refused"] == "hidden by CORS"
