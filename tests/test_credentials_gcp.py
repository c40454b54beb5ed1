"""Rules of type gcp with Google's own libraries: they start with nothing configured, because Postern answers as the metadata server, and what they send
with its placeholder arrives at Google with the token that the service account was given. Attacks: docs/security.md 59."""

import contextlib
import json
import subprocess
import urllib.parse

import pytest

from attacks_support import Canary, Origin, Sandbox, answer_with
from clients_support import CACHE, caller, npm_package, python_environment, running  # noqa: F401 (fixtures)

STORAGE, TOKENS, METADATA = "storage.googleapis.com", "oauth2.googleapis.com", "metadata.google.internal"
SCOPE = "https://www.googleapis.com/auth/devstorage.read_only"
PLACEHOLDER = "ya29.postern-injected"
EMAIL = "robot@acme-prod.iam.gserviceaccount.com"
POLICY = {"rules": [{"name": "google", "type": "gcp", "gcp": {"service_account_json": {"type": "workspace_secret", "value": "{GCP}"}, "scopes": [SCOPE]}}]}


@pytest.fixture(scope="session")
def private_key():
    return subprocess.run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], capture_output=True, text=True, check=True).stdout


def account(private_key, **changed):
    return json.dumps({"type": "service_account", "project_id": "acme-prod", "private_key_id": "k1", "private_key": private_key, "client_email": EMAIL,
                       "client_id": "1", "token_uri": f"https://{TOKENS}/token", **changed})


@pytest.fixture
def google(authority):
    """(origin of the API, of the tokens, of what must never be reached, the minted token)."""
    token = Canary()
    token.value = "ya29." + token.value.replace('"', "x")
    with contextlib.ExitStack() as stack:
        def start(*names, **more):
            origin = Origin(authority=authority, names=names, **more)
            stack.callback(origin.stop)
            return origin
        body = json.dumps({"access_token": str(token), "expires_in": 3599, "token_type": "Bearer"})
        real = Origin()  # Plain HTTP, as the real one would be.
        stack.callback(real.stop)
        yield (start(STORAGE, answer=lambda request: answer_with("200 OK", '{"kind": "storage#buckets"}', "Content-Type: application/json")),
               start(TOKENS, answer=lambda request: answer_with("200 OK", body, "Content-Type: application/json")), real, token)


def lead(postern, google):
    storage, tokens, real, _ = google
    return postern.at(STORAGE, storage.port).at(TOKENS, tokens.port).at(METADATA, real.port)


PYTHON_CLIENT = f"""
import google.auth, google.auth.transport.requests
credentials, project = google.auth.default(scopes=["{SCOPE}"])
session = google.auth.transport.requests.AuthorizedSession(credentials)
answer = session.get(f"https://{STORAGE}/storage/v1/b?project={{project}}")
print(type(credentials).__name__, project, answer.status_code, answer.json()["kind"], credentials.token, credentials.service_account_email, credentials.universe_domain)
"""


@pytest.fixture(scope="session")
def google_auth():
    """google-auth from PyPI, kept in build/ from one run to the next."""
    return python_environment(CACHE / "google-auth", "google/auth", "google-auth[requests]==2.*")


@pytest.fixture(scope="session")
def google_auth_library():
    """google-auth-library from npm."""
    return npm_package(CACHE / "google-auth-library", "google-auth-library", "10")


def verify_exchange(google, run, calls=1):
    storage, tokens, real, token = google
    assert [request.fields["authorization"] for request in storage.requests] == [[f"Bearer {token}"]] * calls
    (asked,) = tokens.requests
    form = urllib.parse.parse_qs(asked.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"] and form["assertion"][0].count(".") == 2
    assert real.connections == 0
    assert not token.found_in(run.stdout + run.stderr + run.log_text) and "PRIVATE KEY" not in run.log_text
    metadata = [record for record in run.records if record["host"] in (METADATA, "169.254.169.254")]
    assert metadata and all((record["rule"], record["decision"], record["credentials"]) == ("google", "allowed", []) for record in metadata)
    credentials = [one for record in run.records if record["host"] == STORAGE for one in record["credentials"]]
    assert [(one["header"], one["source"]) for one in credentials] == [("Authorization", f"gcp:{EMAIL}")] * calls
    assert [one.get("cached", False) for one in credentials].count(False) == 1


def test_google_auth_starts_with_nothing_and_its_calls_arrive_with_the_real_token(caller, google, google_auth, private_key):
    run = lead(caller, google).run(google_auth, "-c", PYTHON_CLIENT, policy=POLICY, secrets={"GCP": account(private_key)},
                                   options=["--ro-bind", str(CACHE), "--env", "CLOUDSDK_CONFIG=/nonexistent"])
    assert run.stdout.split() == ["Credentials", "acme-prod", "200", "storage#buckets", PLACEHOLDER, EMAIL, "googleapis.com"], run.stderr + run.log_text
    verify_exchange(google, run)


NODE_CLIENT = f"""
const {{ GoogleAuth }} = require("google-auth-library");
(async () => {{
  const auth = new GoogleAuth({{ scopes: ["{SCOPE}"] }});
  const project = await auth.getProjectId();
  const answer = await auth.request({{ url: "https://{STORAGE}/storage/v1/b?project=" + project }});
  const client = await auth.getClient();
  console.log(client.constructor.name, project, answer.status, answer.data.kind, (await client.getAccessToken()).token);
}})().catch((error) => {{ console.error(error); process.exit(1); }});
"""


def test_google_auth_library_of_npm_does_too(caller, google, google_auth_library, private_key):
    run = lead(caller, google).run("node", "-e", NODE_CLIENT, policy=POLICY, secrets={"GCP": account(private_key)},
                                   options=["--ro-bind", str(CACHE), "--env", f"NODE_PATH={google_auth_library}"])
    assert run.stdout.split() == ["Compute", "acme-prod", "200", "storage#buckets", PLACEHOLDER], run.stderr + run.log_text
    verify_exchange(google, run)


# ---- attacks ------------------------------------------------------------------------------------------------

TOKEN_PATH = "/computeMetadata/v1/instance/service-accounts/default/token"


@pytest.fixture
def box(postern, google, private_key):
    with contextlib.ExitStack() as stack:
        def start(policy=POLICY, options=(), given=account(private_key)):
            started = Sandbox(lead(postern, google), policy, {"GCP": given}, options=options, canaries=[google[3]])
            stack.callback(started.end)
            return started
        yield start


def test_the_metadata_server_gives_placeholders_only_and_forwards_nothing(box, google):
    sandbox = box()
    wanted = "Metadata-Flavor: Google"
    for place in (METADATA, "169.254.169.254"):
        def get(path, *lines):
            return sandbox.get(place, path, *lines, port=80, tls=False)
        answer = get(TOKEN_PATH, wanted)
        assert answer.statuses == [200] and PLACEHOLDER in answer.text and "metadata-flavor: google" in answer.text.lower()
        assert get(TOKEN_PATH).statuses == [403] and PLACEHOLDER not in get(TOKEN_PATH).text
        assert get(TOKEN_PATH, "Metadata-Flavor: Googly").statuses == [403]
        assert get(TOKEN_PATH, wanted, "X-Forwarded-For: 10.0.0.1").statuses == [403]
        for path in ("/latest/meta-data/iam/security-credentials/", "/metadata/instance?api-version=2021-02-01", "/computeMetadata/v1/instance/attributes/ssh-keys",
                     TOKEN_PATH.replace("token", "identity?audience=x"), "/computeMetadata/v1/../../opc/v1/instance/", "/%2e%2e/latest/api/token"):
            assert get(path, wanted).statuses in ([404], [400]), path
        put = sandbox.talk(place, f"PUT /latest/api/token HTTP/1.1\r\nHost: {place}\r\nContent-Length: 2\r\n\r\nxx", port=80, tls=False, until="only GET")
        assert put.statuses == [405]
    # What was obtained is worth something only where the rule puts the real one in its place.
    storage = google[0]
    assert sandbox.get(STORAGE, "/", f"Authorization: Bearer {PLACEHOLDER}").statuses == [200]
    assert storage.values("authorization") == [f"Bearer {google[3]}"]
    assert google[2].connections == 0
    sandbox.check_secrecy()


def test_other_ways_to_metadata_are_closed_as_ever(box, google):
    sandbox = box(options=["--allow", "*", "--allow", "169.254.0.0/16"])
    for address in ("169.254.169.253", "169.254.170.2", "100.100.100.200", "192.168.0.1"):
        answer = sandbox.get(address, TOKEN_PATH, "Metadata-Flavor: Google", port=80, tls=False)
        assert answer.statuses == [403] and PLACEHOLDER not in answer.text, (address, answer)
    # By TLS, and on another port.
    for port in (443, 8080):
        answer = sandbox.talk("169.254.169.254", f"GET {TOKEN_PATH} HTTP/1.1\r\nHost: {METADATA}\r\nMetadata-Flavor: Google\r\n\r\n", port=port, tls=False)
        assert PLACEHOLDER not in answer.text and answer.statuses != [200], answer
    sandbox.honest(STORAGE)


def test_without_a_rule_or_when_denied_it_is_refused(box, google):
    off = {"rules": [{**POLICY["rules"][0], "enabled": False}], "access_control": {"allow_list": ["169.254.169.254", STORAGE]}}
    for policy, options in ((off, []), (POLICY, ["--deny", METADATA, "--deny", "169.254.169.254"])):
        sandbox = box(policy, options)
        answer = sandbox.get("169.254.169.254", TOKEN_PATH, "Metadata-Flavor: Google", port=80, tls=False)
        assert answer.statuses == [403] and answer.reason in ("private_address", "in_deny_list"), answer
        answer = sandbox.get(METADATA, TOKEN_PATH, "Metadata-Flavor: Google", port=80, tls=False)
        assert answer.statuses == [403] and PLACEHOLDER not in answer.text, answer
    assert google[2].connections == 0


@pytest.mark.parametrize("uri", ["https://127.0.0.1/token", "https://169.254.169.254/token", "http://oauth2.googleapis.com/token", "https://evil.example.test/token",
                                 "https://oauth2.googleapis.com.evil.example.test/token", "https://oauth2.googleapis.com:8443/token", "https://metadata.google.internal/token"])
def test_a_key_file_that_sends_its_assertion_elsewhere_is_refused_before_anything_starts(postern, google, authority, private_key, uri):
    elsewhere = Origin(authority=authority, names=("evil.example.test",))
    lead(postern, google).at("evil.example.test", elsewhere.port).at("oauth2.googleapis.com.evil.example.test", elsewhere.port)
    run = postern.run("touch", "started", policy=POLICY, secrets={"GCP": account(private_key, token_uri=uri)})
    assert run.status == 125 and "token_uri" in run.stderr and "PRIVATE" not in run.stderr and not (postern.work / "started").exists(), run.stderr
    assert elsewhere.connections == 0 and google[1].connections == 0
    elsewhere.stop()
