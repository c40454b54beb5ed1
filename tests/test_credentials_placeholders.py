"""Placeholders by real clients in both versions of HTTP (docs/security.md 42, 43): one account's stands for that account's credential, in that header,
for that host."""

import pytest

import kit
from attacks_support import Canary, Origin, Sandbox
from clients_support import caller  # noqa: F401 (fixture)

API, OTHER = "api.example.test", "other.example.test"


def rule(name, host, placeholder, key, header="Authorization"):
    return {"name": name, "match_hosts": [host], "match_headers": [f"{header.lower()}: Bearer {placeholder}"],
            "headers": [{"name": header, "type": "workspace_secret", "value": "Bearer {%s}" % key}], "env_vars": {f"{key}_TOKEN": placeholder}}


POLICY = {"rules": [rule("first", API, "placeholder-first", "FIRST"), rule("second", API, "placeholder-second", "SECOND"),
                    rule("other", OTHER, "placeholder-other", "OTHER")]}


@pytest.fixture
def parts(caller, authority):
    keys = {key: Canary() for key in ("FIRST", "SECOND", "OTHER")}
    api, other = (Origin(authority=authority, names=(name,)) for name in (API, OTHER))
    yield caller.at(API, api.port).at(OTHER, other.port), keys, api, other
    api.stop()
    other.stop()


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_each_placeholder_is_swapped_for_its_own_account_and_nowhere_else(parts, version):
    caller, keys, api, other = parts
    box = Sandbox(caller, POLICY, keys, canaries=keys.values())

    def sent(origin, url, *fields):
        """The head that the origin got."""
        words = ["curl", "-sS", version, "--max-time", "30", "-w", "%{http_code}", *(word for field in fields for word in ("-H", field)), url]
        assert box.python(f"import subprocess; result = subprocess.run({words!r}, capture_output=True, text=True).stdout") == "ok200"
        return origin.requests[-1]

    try:
        assert box.python("import os; result = [os.environ[key] for key in ('FIRST_TOKEN', 'SECOND_TOKEN')]") == ["placeholder-first", "placeholder-second"]
        for key, placeholder in (("FIRST", "placeholder-first"), ("SECOND", "placeholder-second")):
            request = sent(api, f"https://{API}/", f"Authorization: Bearer {placeholder}", f"User-Agent: {placeholder}", f"X-Copy: Bearer {placeholder}")
            assert request.fields["authorization"] == [f"Bearer {keys[key]}"]
            assert request.fields["user-agent"] == [placeholder] and request.fields["x-copy"] == [f"Bearer {placeholder}"]
        # With neither, with one that is nobody's, of another host, in another header, in the URL or its path.
        without = [sent(api, f"https://{API}/"), sent(api, f"https://{API}/", "Authorization: Bearer mine"), sent(api, f"https://{API}/", "Authorization: Bearer placeholder-other"),
                   sent(api, f"https://{API}/", "X-Api-Key: Bearer placeholder-first", "Origin: placeholder-first", "Cookie: a=placeholder-first"),
                   sent(api, f"https://{API}/placeholder-first?key=placeholder-first"),
                   sent(other, f"https://{OTHER}/", "Authorization: Bearer placeholder-first"),
                   sent(api, f"https://{API}/b/o?X-Goog-Algorithm=a&X-Goog-Credential=b&X-Goog-Signature=c", "Authorization: Bearer placeholder-first")]
        for request in without:
            assert not any(key.found_in(request.head) for key in keys.values()), request.head
        assert "authorization" not in without[-1].fields
        assert sent(other, f"https://{OTHER}/", "Authorization: Bearer placeholder-other").fields["authorization"] == [f"Bearer {keys['OTHER']}"]
        for key in ("FIRST", "SECOND"):
            assert not keys[key].found_in(other.everything())
        assert not keys["OTHER"].found_in(api.everything())
        assert len(box.fresh_records(0, 10)) == len(api.requests) + len(other.requests)
        box.check_secrecy()
    finally:
        box.end()


def test_a_redirect_takes_no_credential_along(parts):
    caller, keys, api, other = parts
    api.answer = lambda request: f"HTTP/1.1 302 Found\r\nLocation: https://{OTHER}/\r\nContent-Length: 0\r\n\r\n".encode()
    run = caller.run("curl", "-sS", "-L", "--location-trusted", "-H", "Authorization: Bearer placeholder-first", f"https://{API}/", policy=POLICY,
                     secrets=keys)
    assert run.stdout == "ok" and other.values("authorization") == ["Bearer placeholder-first"], run.stderr
    assert api.values("authorization") == [f"Bearer {keys['FIRST']}"] and not keys["FIRST"].found_in(other.everything())
