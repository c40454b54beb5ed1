"""Rules that tell operations of one URL apart (match_operations): GraphQL, JSON-RPC and MCP, from a real client in a sandbox."""

import gzip
import json

import pytest

import kit
from attacks_support import Origin

HOST = "api.example.test"


def policy():
    """Reads get the credential, a mutation is closed, the tools of an MCP server are a list; everything else is closed."""
    read = kit.header_rule(HOST)["rules"][0]
    return {"rules": [
        {"name": "no-deletes", "match_hosts": [HOST], "action": "deny", "match_operations": ["mutation delete*"]},
        {**read, "name": "graphql", "match_paths": ["/graphql"], "match_operations": ["query *", "mutation addComment"]},
        {**read, "name": "mcp", "match_paths": ["/mcp"], "match_operations": ["initialize", "tools/list", "tools/call search_*"]},
        {"name": "rest", "match_hosts": [HOST], "action": "deny", "match_paths": ["/graphql", "/mcp"]},
    ]}


@pytest.fixture
def origin(authority):
    started = Origin(authority=authority, names=[HOST])
    yield started
    started.stop()


@pytest.fixture
def ask(postern, origin):
    postern.at(HOST, origin.port)

    def ask(path, body, *words, type="application/json"):
        if body is not None:
            data = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else json.dumps(body).encode()
            (postern.work / "body").write_bytes(data)
            words = ("--data-binary", f"@{postern.work / 'body'}", "-H", f"Content-Type: {type}", *words)
        run = postern.run("curl", "-sS", "--max-time", "30", "-o", "said", "-w", "%{http_code}", *words, f"https://{HOST}{path}",
                          policy=policy(), secrets={"KEY": "sk-operations-1234567890"})
        record, = (record for record in run.records if record["kind"] == "http")
        return int(run.stdout), record

    return ask


def graphql(text, **more):
    return {"query": text, **more}


def rpc(method, **params):
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


ALLOWED = {
    "a query": ("/graphql", graphql("{ viewer { login } }"), "query viewer"),
    "a named one with a fragment": ("/graphql", graphql("query Q { ...F } fragment F on Query { a: repository(owner: \"x\") { id } }"), "query repository"),
    "a mutation that is listed": ("/graphql", graphql("mutation { addComment(input: {body: \"deleteAll\"}) { id } }"), "mutation addComment"),
    "a batch": ("/graphql", [graphql("{ viewer { login } }"), graphql("{ node { id } }")], "query viewer, query node"),
    "a tool": ("/mcp", rpc("tools/call", name="search_code", arguments={"name": "delete"}), "tools/call search_code"),
    "a method": ("/mcp", rpc("tools/list"), "tools/list"),
}

DENIED = {
    "a mutation": ("/graphql", graphql("mutation { mergePullRequest(input: {}) { id } }")),
    "behind an alias": ("/graphql", graphql("mutation { addComment: deleteRepository { id } }")),
    "beside one that is allowed": ("/graphql", graphql("mutation { addComment(input: {}) { id } deleteRef(input: {}) { id } }")),
    "another operation of the document": ("/graphql", graphql("query A { viewer { login } } mutation B { mergeBranch { id } }", operationName="A")),
    "in a batch": ("/graphql", [graphql("{ viewer { login } }"), graphql("mutation { closeIssue { id } }")]),
    "a name that is twice": ("/graphql", '{"query": "{ viewer { login } }", "query": "mutation { closeIssue { id } }"}'),
    "a name in another case": ("/graphql", '{"query": "{ viewer { login } }", "Query": "mutation { closeIssue { id } }"}'),
    "a stored document": ("/graphql", {"extensions": {"persistedQuery": {"version": 1, "sha256Hash": "00"}}}),
    "what is no GraphQL": ("/graphql", graphql("query { viewer ")),
    "another tool": ("/mcp", rpc("tools/call", name="delete_repository")),
    "another method": ("/mcp", rpc("resources/read", uri="file:///etc/passwd")),
    "no JSON at all": ("/mcp", "tools/list"),
}


@pytest.mark.parametrize("what", ALLOWED)
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_what_is_listed_is_sent_with_its_credential(ask, origin, what, version):
    path, body, operation = ALLOWED[what]
    status, record = ask(path, body, version)
    assert status == 200 and record["operation"] == operation, record
    request, = origin.requests
    assert json.loads(request.body) == body and request.fields["authorization"] == ["Bearer sk-operations-1234567890"]


@pytest.mark.parametrize("what", DENIED)
def test_what_is_not_listed_is_not(ask, origin, what):
    path, body = DENIED[what]
    status, record = ask(path, body)
    assert status == 403 and record["reason"] == "denied_by_rule", record
    assert origin.connections == 0


def test_what_cannot_be_read_is_closed(ask, origin):
    body = json.dumps(graphql("{ viewer { login } }")).encode()
    assert ask("/graphql", gzip.compress(body), "-H", "Content-Encoding: gzip")[0] == 200, "this coding is known"
    assert ask("/graphql", body, "-H", "Content-Encoding: lzma")[0] == 403
    assert ask("/graphql", body, "-H", "Content-Type: text/plain")[0] == 403, "two types"
    assert ask("/graphql", body, type="multipart/form-data; boundary=x")[0] == 403
    status, record = ask("/graphql", json.dumps(graphql("{ viewer { login } }" + " " * (1 << 20))))
    assert status == 413 and record["reason"] == "body_too_large"
    assert len(origin.requests) == 1


def test_a_query_in_the_url_of_a_websocket_is_not_all_that_passes(ask, origin):
    upgrade = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "-H", "Sec-WebSocket-Version: 13"]
    status, record = ask("/graphql?query=%7Bviewer%7Blogin%7D%7D", None, *upgrade)
    assert status == 403 and record["reason"] == "denied_by_rule" and origin.connections == 0


def test_a_query_in_the_url(ask, origin):
    assert ask("/graphql?query=%7Bviewer%7Blogin%7D%7D", None)[0] == 200
    assert ask("/graphql?query=mutation%7BcloseIssue%7Bid%7D%7D", None)[0] == 403
    assert ask("/graphql?query=%7Bviewer%7Blogin%7D%7D", graphql("mutation { closeIssue { id } }"))[0] == 403, "which of the two counts?"
    assert ask("/other", graphql("mutation { closeIssue { id } }"))[0] == 200, "no rule closes it"
    assert ask("/other", graphql("mutation { deleteRef { id } }"))[0] == 403
    assert len(origin.requests) == 2
