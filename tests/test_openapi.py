"""The document of the API has what the server has, and nothing else. That answers fit it is looked at with every call of serve_support.Server."""

import os
import re
import subprocess

import jsonschema
import pytest

import api_page
import kit
import openapi_support as api
from clients_support import WAIT
from serve_support import Server


def test_every_route_is_in_the_document_and_no_other(place):
    done = subprocess.run([kit.POSTERN, "serve", "--listen", "127.0.0.1:0", "--data", place / "data", "--print-routes"], capture_output=True, text=True, timeout=WAIT,
                          env={"PATH": os.environ["PATH"], "HOME": str(place)})
    assert done.returncode == 0, done.stderr
    shape = lambda pattern: re.sub(r"\{\w+\}", "{}", api.canonical(pattern))
    served = {(method, shape(pattern)): pattern for method, pattern in map(str.split, done.stdout.splitlines())}
    documented = {(method, shape(pattern)): pattern for method, pattern, _ in api.operations()}
    assert len(served) > 40
    missing = [f"{method} {pattern}: is served, and {api.FILE} does not have it: write it beside its neighbours, then ./dev docs" for (method, key), pattern in served.items() if (method, key) not in documented]
    gone = [f"{method} {pattern}: is in {api.FILE}, and no route: take it out, then ./dev docs" for (method, key), pattern in documented.items() if (method, key) not in served]
    assert not missing + gone, "\n" + "\n".join(missing + gone)


def nodes(node):
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(inner)


def test_the_document_is_whole():
    ids = [operation["operationId"] for _, _, operation in api.operations()]
    assert len(ids) == len(set(ids))
    for method, pattern, operation in api.operations():
        assert set(re.findall(r"\{(\w+)\}", pattern)) == {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}, pattern
        assert operation["summary"] and operation["tags"] and "default" in operation["responses"], (method, pattern)
    used = {node["$ref"] for node in nodes(api.DOCUMENT) if isinstance(node, dict) and isinstance(node.get("$ref"), str)}
    for reference in used:
        api.RESOLVER.resolve(reference)
    for name, schema in api.DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert f"#/components/schemas/{name}" in used, f"{name} is used by nothing"


def test_the_page_is_what_the_document_says():
    assert (kit.ROOT / "docs/api.md").read_text() == api_page.page(), "./dev docs writes it anew"


def test_a_server_gives_its_document_to_anybody(place):
    server = Server(place).start()
    assert server.call("GET", "//openapi.json", key=False) == (200, api.DOCUMENT)
    assert server.call("GET", "//openapi.json", key=False, headers={"Host": "evil.example"})[0] == 421
    server.stop()


@pytest.mark.parametrize("answer", [
    ("GET", "/api/v2/sandboxes/boxes/x", 200, "application/json", '{"id": "x"}'),
    ("GET", "/v2/sandboxes/boxes/x", 200, "text/html", "{}"),
    ("GET", "/api/v2/sandboxes/boxes/x", 201, "application/json", "{}"),
    ("GET", "/api/v2/sandboxes/boxes/x", 404, "application/json", '{"detail": {"error": 7, "message": "x"}}'),
    ("DELETE", "/api/v2/sandboxes/boxes/x", 204, "application/json", "{}"),
    ("GET", "/api/v1/workspaces/current/secrets", 200, "application/json", '[{"key": "x", "updated_at": "x", "value": "x"}]'),
    ("GET", "/nothing", 200, "application/json", "{}"),
])
def test_an_answer_that_does_not_fit_is_noticed(answer):
    with pytest.raises(AssertionError):
        api.check_answer(*answer)


def test_usage_is_counted(place):
    server = Server(place).start()
    for name in ("one", "two", "three"):
        server.call("POST", "/boxes", {"name": name, "cpu_millicores": 500, "mem_bytes": 1 << 28})
    server.call("POST", "/boxes/three/stop")
    status, usage = server.call("GET", "/usage")
    assert status == 200 and usage == {"cpu_limit_millicores": 0, "cpu_used_millicores": 1000, "memory_limit_bytes": 0, "memory_used_bytes": 1 << 29, "sandboxes_limit": 0, "sandboxes_used": 3,
                                       "sandbox_running_count": 2, "sandbox_stopped_count": 1, "snapshots_count": 0, "registries_count": 0}
    assert server.call("GET", "/usage/costs?granularity=HOUR") == (200, {"items": [], "next_cursor": None})
    assert server.call("GET", "/usage", key=False)[0] == 401
    server.stop()
