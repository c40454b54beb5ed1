"""The main job, once, on real parts: a call gets a credential that the program never held."""

import kit

CANARY = "canary-9d3f61"


def test_a_call_is_authenticated_by_a_key_that_the_program_never_held(postern, nginx):
    port = nginx.serve("api.example.test", locations='location / { return 200 "auth=$http_authorization\\n"; }')
    nginx.start()
    run = postern.at("api.example.test", port).run(
        "sh", "-c", "env; curl -sS https://api.example.test/v1/models",
        policy=kit.header_rule("api.example.test"), secrets={"KEY": CANARY})
    assert run.status == 0, run.stderr
    environment, _, answer = run.stdout.rpartition("auth=")
    assert answer == f"Bearer {kit.shown(CANARY)}\n"  # This origin echoes what it was sent.
    assert CANARY not in environment
    record = run.record(host="api.example.test")
    assert record["scrubbed"] == 1
    assert record["decision"] == "allowed" and record["rule"] == "rule" and record["status"] == 200
    assert record["credentials"] == [{"header": "Authorization", "source": "workspace_secret:KEY"}]
    assert CANARY not in run.log_text + run.stderr


def test_a_denied_host_is_refused_in_words(postern):
    run = postern.run("curl", "-sS", "-w", "%{http_code}", "https://evil.example/", policy=kit.header_rule("api.example.test"), secrets={"KEY": CANARY})
    assert run.stdout.endswith("403")
    assert '"reason":"not_in_allow_list"' in run.stdout and "api.example.test" in run.stdout
    assert run.record(kind="http", host="evil.example")["decision"] == "denied"


def test_a_new_connection_to_a_known_origin_resumes_its_tls_session(postern, nginx):
    port = nginx.serve("api.example.test", extra="keepalive_timeout 0;", locations='location / { return 200 "$ssl_session_reused "; }')
    nginx.start()
    run = postern.at("api.example.test", port).run(
        "sh", "-c", "for i in 1 2 3; do curl -sS https://api.example.test/; done", policy=kit.header_rule("api.example.test"), secrets={"KEY": CANARY})
    assert run.stdout == ". r r "
