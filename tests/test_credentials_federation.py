"""Workload identities with the clouds' own clients: no secret is stored anywhere; a token service that looks up Postern's key, as clouds do, gives
the credentials; the sandbox holds placeholders. What goes wrong is in federation_test and signing_test."""

import contextlib
import subprocess

import pytest

import aws_support
import federation_support
import kit
from attacks_support import Canary, Origin, answer_with
from clients_support import CACHE, PYTHON, caller, python_environment, python_packages  # noqa: F401 (fixture)

ISSUER = "https://postern.example.test"
SUBJECT = "workspace:local"
ROLE = "arn:aws:iam::123456789012:role/agents"
POOL = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/agents/providers/postern"
S3 = "bucket.s3.eu-west-1.amazonaws.com"
STORAGE = "storage.googleapis.com"
BLOBS = "acme01.blob.core.windows.net"
TENANT, CLIENT = "11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000"


@pytest.fixture
def clouds(caller, authority):
    """Starts the token services for a caller: (the services, the options of its runs)."""
    with contextlib.ExitStack() as stack:
        def start(**given):
            port = kit.free_port()
            services = federation_support.TokenServices(authority, ISSUER, f"http://127.0.0.1:{port}", SUBJECT, **given)
            stack.callback(services.stop)
            for host in federation_support.HOSTS:
                caller.at(host, services.port)
            return services, ["--callback-jwks", f"127.0.0.1:{port}", "--callback-issuer", ISSUER]
        start.stack = stack
        yield start


@pytest.fixture(scope="session")
def aws_sdk():
    """As in test_credentials_signing."""
    return python_packages(CACHE / "aws", "bin/aws", "boto3==1.43.11", "awscli==1.45.11")


def test_boto3_works_as_a_role_that_trusts_postern(caller, clouds, authority, aws_sdk):
    secret, token = str(Canary()), str(Canary()) + "/+=="
    services, options = clouds(aws=("ASIAREALREALREALREAL", secret, token))
    aws = aws_support.Aws(authority, [S3], "ASIAREALREALREALREAL", secret, token)
    clouds.stack.callback(aws.stop)
    caller.at(S3, aws.port)
    rule = {"name": "cloud", "type": "aws", "aws": {"role_arn": ROLE, "session_tags": {"team": "r d"}}, "env_vars": {"AWS_REGION": "eu-west-1", "PYTHONPATH": str(aws_sdk)}}
    script = """
import boto3
s3 = boto3.client("s3", region_name="eu-west-1")
s3.put_object(Bucket="bucket", Key="a", Body=b"hello")
print(s3.get_object(Bucket="bucket", Key="a")["Body"].read(), s3._request_signer._credentials.access_key)
"""
    run = caller.run(PYTHON, "-c", script, policy={"rules": [rule]}, options=options, timeout=90)
    assert run.stdout == "b'hello' AKIAPOSTERNINJECTED0\n", run.stderr + run.log_text + repr(services.refused)
    assert services.role == (ROLE, "postern-run") and len(services.asked) == 1 and aws.refused == [] and len(aws.verified) == 2
    assert services.claims[0]["https://aws.amazon.com/tags"]["principal_tags"] == {"team": ["r d"]}
    assert secret not in run.log_text + run.stdout + run.stderr and token not in run.log_text + run.stdout + run.stderr
    asked = {"header": "Authorization", "source": f"aws:{ROLE}"}
    assert [record["credentials"] for record in run.records] == [[asked], [asked | {"cached": True}]]


@pytest.mark.parametrize("account", [None, "robot@acme.iam.gserviceaccount.com"])
def test_google_auth_works_by_federation(caller, clouds, authority, account):
    token = str(Canary())
    services, options = clouds(**({"token": token} if account else {"federated": token}))
    storage = Origin(authority=authority, names=[STORAGE], answer=lambda request: answer_with("200 OK", "{}", "Content-Type: application/json"))
    clouds.stack.callback(storage.stop)
    caller.at(STORAGE, storage.port)
    google_auth = python_environment(CACHE / "google-auth", "google/auth", "google-auth[requests]==2.*")
    gcp = {"workload_identity_provider": POOL, **({"service_account_email": account} if account else {})}
    script = f"""
import google.auth, google.auth.transport.requests
credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
print(google.auth.transport.requests.AuthorizedSession(credentials).get("https://{STORAGE}/storage/v1/b").status_code, credentials.token, credentials.service_account_email)
"""
    run = caller.run(google_auth, "-c", script, policy={"rules": [{"name": "google", "type": "gcp", "gcp": gcp}]},
                     options=[*options, "--ro-bind", str(CACHE), "--env", "CLOUDSDK_CONFIG=/nonexistent"], timeout=90)
    assert run.stdout == f"200 ya29.postern-injected {account or 'default'}\n", run.stderr + run.log_text + repr(services.refused)
    assert [request.fields["authorization"] for request in storage.requests] == [[f"Bearer {token}"]]
    assert services.refused == [] and len(services.claims) == 1 and token not in run.log_text + run.stdout + run.stderr


AZURE_CLIENT = f"""
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobServiceClient
credential = DefaultAzureCredential()
print(BlobServiceClient("https://{BLOBS}", credential=credential).get_container_client("c").download_blob("b").readall())
print(credential.get_token("https://storage.azure.com/.default").token)
"""


def test_azures_client_starts_with_nothing_and_works_by_federation(caller, clouds, authority):
    token = str(Canary())
    services, options = clouds(federated=token)
    blobs = Origin(authority=authority, names=[BLOBS], answer=lambda request: answer_with(
        "206 Partial Content", "hello", "Content-Range: bytes 0-4/5", "x-ms-blob-type: BlockBlob", 'ETag: "x"', "Last-Modified: Fri, 02 Jan 2026 00:00:00 GMT"))
    clouds.stack.callback(blobs.stop)
    caller.at(BLOBS, blobs.port)
    sdk = python_packages(CACHE / "azure-identity", "azure/identity", "azure-storage-blob", "azure-identity")
    rule = {"name": "entra", "type": "azure", "match_hosts": [BLOBS], "azure": {"tenant_id": TENANT, "client_id": CLIENT}, "env_vars": {"PYTHONPATH": str(sdk)}}
    run = caller.run(PYTHON, "-c", AZURE_CLIENT, policy={"rules": [rule]}, options=options, timeout=90)
    assert run.stdout == "b'hello'\npostern-injected\n", run.stderr + run.log_text + repr(services.refused)
    assert {value for request in blobs.requests for value in request.fields["authorization"]} == {f"Bearer {token}"}
    assert services.scope == "https://storage.azure.com/.default" and token not in run.log_text + run.stdout + run.stderr


def test_a_cloud_that_does_not_trust_the_subject_gives_nothing(caller, clouds, authority):
    services, options = clouds()
    services.subject = "workspace:other"
    storage = Origin(authority=authority, names=[STORAGE])
    clouds.stack.callback(storage.stop)
    caller.at(STORAGE, storage.port)
    run = caller.run("curl", "-sS", "-w", "%{http_code} %header{x-postern-reason}", "-o", "/dev/null", f"https://{STORAGE}/",
                     policy={"rules": [{"name": "google", "type": "gcp", "gcp": {"workload_identity_provider": POOL}}]}, options=options)
    assert run.stdout == "502 credential_unavailable" and storage.connections == 0, run.stderr
    assert "answered 403: invalid_grant" in run.log_text and len(services.refused) == 1


def test_the_key_stays_the_same_and_is_published_beside_the_other(postern, authority):
    policy = {"rules": [{"name": "google", "type": "gcp", "gcp": {"workload_identity_provider": POOL}}]}
    port = kit.free_port()
    options = ["--callback-jwks", f"127.0.0.1:{port}", "--callback-issuer", ISSUER]
    seen = []
    for _ in range(2):
        process, _ = postern.start("sh", "-c", "read line", policy=policy, options=options, stdin=subprocess.PIPE)
        try:
            kit.wait_for_port(port, process)
            seen.append(federation_support.fetched(f"http://127.0.0.1:{port}/.well-known/jwks.json")["keys"])
            found = federation_support.fetched(f"http://127.0.0.1:{port}/.well-known/openid-configuration")
        finally:
            process.communicate("\n", timeout=30)
    assert seen[0] == seen[1] and [key["alg"] for key in seen[0]] == ["EdDSA", "RS256"] and not {"d", "p", "q"} & set(seen[0][1])
    assert (found["issuer"], found["jwks_uri"]) == (ISSUER, ISSUER + "/.well-known/jwks.json")


@pytest.mark.parametrize("issuer", [[], ["--callback-issuer", "http://postern.example.test"]])
def test_without_an_issuer_that_a_cloud_can_ask_nothing_starts(postern, issuer):
    run = postern.run("touch", "started", policy={"rules": [{"name": "cloud", "type": "aws", "aws": {"role_arn": ROLE}}]}, options=issuer)
    assert run.status == 125 and "--callback-issuer https://" in run.stderr and not (postern.work / "started").exists(), run.stderr


def test_a_tag_that_the_sandbox_does_not_have_is_refused_by_place(postern):
    run = postern.run("touch", "started", policy={"rules": [{"name": "cloud", "type": "aws", "aws": {"role_arn": ROLE, "subject_scope": "tag:blue"}}]},
                      options=["--callback-issuer", ISSUER])
    assert run.status == 125 and "rules[0].aws.subject_scope: the sandbox has no tag value blue (accepted: workspace)" in run.stderr, run.stderr
    assert not (postern.work / "started").exists()
