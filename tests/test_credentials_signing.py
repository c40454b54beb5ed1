"""Signed requests with real parts: AWS's and Azure's own clients in a sandbox sign with placeholders, and a cloud that checks signatures sees only the real key's.

What clients get wrong, and what attackers try, is in signing_test, where each byte is written by hand.
"""

import base64
import hashlib
import os

import pytest

import aws_support
import azure_support
from attacks_support import Canary
from clients_support import CACHE, PYTHON, caller, python_packages  # noqa: F401 (fixture)

S3 = "s3.eu-west-1.amazonaws.com"
BUCKET = "bucket.s3.eu-west-1.amazonaws.com"
GLOBAL = "bucket.s3.amazonaws.com"  # where boto3 pre-signs for, whatever the region
DYNAMODB = "dynamodb.eu-west-1.amazonaws.com"
STS = "sts.eu-west-1.amazonaws.com"
HOSTS = [S3, BUCKET, GLOBAL, DYNAMODB, STS]
KEY_ID = "AKIAREALREALREALREAL"


def secret(key):
    return {"type": "workspace_secret", "value": f"{{{key}}}"}


@pytest.fixture(scope="session")
def sdk():
    """Amazon's SDK for Python and its command line, kept in build/ from one run to the next."""
    return python_packages(CACHE / "aws", "bin/aws", "boto3==1.43.11", "awscli==1.45.11")


class Cloud:
    """A sandbox with a rule of type aws, and the AWS that its hosts lead to."""

    def __init__(self, caller, authority, token=None):
        self.secret, self.token = str(Canary()), token
        self.caller = caller
        self.aws = aws_support.Aws(authority, HOSTS, KEY_ID, self.secret, token)
        for host in HOSTS:
            caller.at(host, self.aws.port)

    def run(self, *command, sdk=None, **more):
        keys = {"access_key_id": secret("KEY_ID"), "secret_access_key": secret("SECRET")}
        secrets = {"KEY_ID": KEY_ID, "SECRET": self.secret}
        if self.token:
            keys["session_token"], secrets["TOKEN"] = secret("TOKEN"), self.token
        rule = {"name": "cloud", "type": "aws", "aws": keys, "env_vars": {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-1"}}
        if sdk:
            rule["env_vars"]["PYTHONPATH"] = str(sdk)
        run = self.caller.run(*command, policy={"rules": [rule]}, secrets=secrets, timeout=90, **more)
        for hidden in filter(None, (self.secret, self.token)):
            assert hidden not in run.log_text + run.stdout + run.stderr
        assert "Signature=" not in run.log_text
        return run

    def python(self, script, sdk):
        run = self.run(PYTHON, "-c", "import boto3, botocore.config, hashlib, io, os\n" + script, sdk=sdk)
        assert run.status == 0, run.stderr + run.log_text + repr(self.aws.refused)
        assert self.aws.refused == []
        return run


@pytest.fixture
def cloud(caller, authority):
    made = Cloud(caller, authority)
    yield made
    made.aws.stop()


@pytest.fixture
def session(caller, authority):
    made = Cloud(caller, authority, token=str(Canary()) + "/+==")
    yield made
    made.aws.stop()


def test_the_verifier_reproduces_the_documented_examples():
    """S3: "Signature Calculations for the Authorization Header: Transferring Payload in a Single Chunk", GET Object; and in the URL."""
    secret_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    fields = [("Host", "examplebucket.s3.amazonaws.com"), ("Range", "bytes=0-9"), ("x-amz-content-sha256", aws_support.EMPTY), ("x-amz-date", "20130524T000000Z"),
              ("Authorization", "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;range;x-amz-content-sha256;"
               "x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41")]
    aws_support.verify("GET", "/test.txt", fields, secret_key, "s3").finish(aws_support.EMPTY)
    with pytest.raises(aws_support.Refused):
        aws_support.verify("GET", "/test.tyt", fields, secret_key, "s3").finish(aws_support.EMPTY)
    target = ("/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z"
              "&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404")
    aws_support.verify("GET", target, fields[:1], secret_key, "s3").finish("UNSIGNED-PAYLOAD")


OBJECTS = """
s3 = boto3.client("s3", config=botocore.config.Config(s3={"addressing_style": "STYLE"}))
print(os.environ["AWS_ACCESS_KEY_ID"])
key = "dir/../x y+z//\\u00e9.txt"
s3.put_object(Bucket="bucket", Key=key, Body=b"hello")
print(s3.get_object(Bucket="bucket", Key=key)["Body"].read())
print(s3.head_object(Bucket="bucket", Key=key)["ContentLength"])
s3.put_object(Bucket="bucket", Key="plain", Body=b"one", Metadata={"note": "a  b"}, ContentType="text/plain")
print([one["Key"] for one in s3.list_objects_v2(Bucket="bucket", Prefix="p")["Contents"]])
s3.delete_object(Bucket="bucket", Key="plain")
"""


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_objects_are_put_read_listed_and_deleted(cloud, sdk, style):
    run = cloud.python(OBJECTS.replace("STYLE", style), sdk)
    assert run.stdout.splitlines() == ["AKIAPOSTERNINJECTED0", "b'hello'", "5", "['plain']"]
    assert cloud.aws.objects == {"/bucket/dir/../x y+z//\u00e9.txt": b"hello"}
    assert len(cloud.aws.verified) == 6
    assert [record["credentials"] for record in run.records] == [[{"header": "Authorization", "source": "aws"}]] * 6


def test_a_sessions_token_goes_with_every_signature(session, sdk):
    run = session.python(OBJECTS.replace("STYLE", "virtual"), sdk)
    assert run.stdout.splitlines()[1] == "b'hello'" and len(session.aws.verified) == 6


STREAMED = """
from boto3.s3.transfer import TransferConfig
class Stream(io.RawIOBase):
    # Neither length nor position: SDKs send such a body in chunks, with the checksum behind it.
    def __init__(self, data): self.data = io.BytesIO(data)
    def readable(self): return True
    def read(self, size=-1): return self.data.read(size)
s3 = boto3.client("s3")
data = bytes(range(256)) * 40000
s3.upload_fileobj(Stream(data), "bucket", "parts", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4))
out = io.BytesIO()
s3.download_fileobj("bucket", "parts", out)
print(out.getvalue() == data)
s3.put_object(Bucket="bucket", Key="trailer", Body=io.BytesIO(data[:300000]), ChecksumAlgorithm="CRC32")
"""


def test_a_large_object_goes_in_parts_and_a_stream_in_chunks(cloud, sdk):
    run = cloud.python(STREAMED, sdk)
    assert run.stdout == "True\n"
    assert len(cloud.aws.objects["/bucket/parts"]) == 10_240_000 and len(cloud.aws.objects["/bucket/trailer"]) == 300_000
    assert "STREAMING-UNSIGNED-PAYLOAD-TRAILER" in {verified.payload for _, _, verified in cloud.aws.verified}


PRESIGNED = """
import urllib.request
s3 = boto3.client("s3", config=botocore.config.Config(signature_version="s3v4"))
put = s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "k e y"}, ExpiresIn=60)
assert "AKIAPOSTERNINJECTED0" in put
urllib.request.urlopen(urllib.request.Request(put, data=b"presigned", method="PUT")).read()
print(urllib.request.urlopen(s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k e y"}, ExpiresIn=60)).read())
"""


@pytest.mark.parametrize("kind", ["cloud", "session"])
def test_presigned_urls_are_signed_anew(request, sdk, kind):
    made = request.getfixturevalue(kind)
    run = made.python(PRESIGNED, sdk)
    assert run.stdout == "b'presigned'\n"
    assert [verified.presigned for _, _, verified in made.aws.verified] == [True, True]
    assert [record["credentials"] for record in run.records] == [[{"header": "X-Amz-Signature", "source": "aws"}]] * 2


def test_other_services_have_their_bodies_hashed(cloud, sdk):
    run = cloud.python("""
print(boto3.client("dynamodb").list_tables()["TableNames"])
print(boto3.client("sts").get_caller_identity()["Account"])
""", sdk)
    assert run.stdout.splitlines() == ["['first', 'second']", "123456789012"]
    assert [(verified.service, verified.payload) for _, _, verified in cloud.aws.verified] == [("dynamodb", None), ("sts", None)]


def test_the_command_line_copies_there_and_back(cloud, sdk):
    script = (f'{PYTHON} {sdk}/bin/aws s3 cp --quiet data s3://bucket/a && {PYTHON} {sdk}/bin/aws s3 cp --quiet s3://bucket/a back && cmp data back && '
              f'{PYTHON} {sdk}/bin/aws s3 ls s3://bucket/ && {PYTHON} {sdk}/bin/aws sts get-caller-identity --query Account')
    (cloud.caller.work / "data").write_bytes(b"0123456789" * 100_000)
    run = cloud.run("sh", "-c", script, sdk=sdk)
    assert run.status == 0 and '"123456789012"' in run.stdout, run.stderr + run.stdout + repr(cloud.aws.refused)
    assert hashlib.sha256(cloud.aws.objects["/bucket/a"]).digest() == hashlib.sha256(b"0123456789" * 100_000).digest()
    assert cloud.aws.refused == []


def test_curl_over_both_versions_and_nothing_over_plain_http(cloud):
    script = ('for version in --http1.1 --http2; do curl -sS $version --aws-sigv4 aws:amz:eu-west-1:dynamodb --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
              f'-H "X-Amz-Target: DynamoDB_20120810.ListTables" --data "{{}}" https://{DYNAMODB}/; echo; done; '
              f'curl -sS -o /dev/null -w "%{{http_code}} %header{{x-postern-reason}}\\n" http://{DYNAMODB}/')
    run = cloud.run("sh", "-c", script)
    assert run.stdout.splitlines() == ['{"TableNames": ["first", "second"]}'] * 2 + ["403 plaintext_credential"], run.stderr + repr(cloud.aws.refused)
    assert len(cloud.aws.verified) == 2


def test_the_positive_control_without_a_rule_nothing_is_accepted(cloud, sdk):
    """The same client with the placeholder's own signature: it is Postern's that opens."""
    script = "import boto3; boto3.client('sts').get_caller_identity()"
    run = cloud.caller.run(PYTHON, "-c", script, policy={"rules": [{"name": "seen", "match_hosts": [STS], "headers": [], "env_vars": {
        "PYTHONPATH": str(sdk), "AWS_DEFAULT_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKIAPOSTERNINJECTED0", "AWS_SECRET_ACCESS_KEY": "x"}}]}, timeout=60)
    assert run.status != 0 and cloud.aws.verified == [], run.stderr
    assert {code for _, code, _ in cloud.aws.refused} == {"InvalidAccessKeyId"}, run.stderr


# ---- Azure --------------------------------------------------------------------------------------------------

ACCOUNT = "acme01"
BLOBS = f"{ACCOUNT}.blob.core.windows.net"
TABLES = f"{ACCOUNT}.table.core.windows.net"


@pytest.fixture(scope="session")
def azure_sdk():
    return python_packages(CACHE / "azure", "azure/data/tables", "azure-storage-blob", "azure-data-tables")


BLOB_CLIENT = f"""
import base64
from azure.core.credentials import AzureNamedKeyCredential
from azure.storage.blob import BlobServiceClient
key = AzureNamedKeyCredential("{ACCOUNT}", base64.b64encode(b"placeholder").decode())
service = BlobServiceClient("https://{BLOBS}", credential=key)
container = service.create_container("things")
container.upload_blob("dir/a b+\u00e9", b"hello", metadata={{"note": "a  b"}})
print(container.download_blob("dir/a b+\u00e9").readall())
container.upload_blob("large", b"x" * 3_000_000, max_concurrency=2)
print([blob.name for blob in container.list_blobs()])
"""
TABLE_CLIENT = f"""
from azure.data.tables import TableServiceClient
print([table.name for table in TableServiceClient("https://{TABLES}", credential=key).list_tables()])
"""


@pytest.mark.parametrize("kind", ["account_key", "sas_token"])
def test_azures_own_client_with_a_placeholder(caller, authority, azure_sdk, kind):
    hidden = base64.b64encode(os.urandom(64)).decode()
    sas = f"sv=2026-02-06&ss=bt&srt=sco&sp=rwl&sig={str(Canary())}%3D"
    given = hidden if kind == "account_key" else sas
    storage = azure_support.Storage(authority, ACCOUNT, **({"key": hidden} if kind == "account_key" else {"sas": sas}))
    try:
        caller.at(BLOBS, storage.port).at(TABLES, storage.port)
        rule = {"name": "cloud", "type": "azure", "azure": {"storage_account": ACCOUNT, kind: secret("GIVEN")}, "env_vars": {"PYTHONPATH": str(azure_sdk)}}
        run = caller.run(PYTHON, "-c", BLOB_CLIENT + TABLE_CLIENT, policy={"rules": [rule]}, secrets={"GIVEN": given}, timeout=90)
    finally:
        storage.stop()
    assert storage.refused == [], run.stderr
    assert run.stdout.splitlines() == ["b'hello'", repr(["dir/a b+\u00e9".replace(" ", "%20").replace("+", "%2B").replace("\u00e9", "%C3%A9"), "large"]), "['first']"], (
        run.stderr + run.log_text)
    assert len(storage.blobs["/things/large"]) == 3_000_000
    assert given not in run.log_text + run.stdout + run.stderr and "sig=" not in run.log_text
    place = {"account_key": "Authorization", "sas_token": "sig"}[kind]
    assert {(one["header"], one["source"]) for record in run.records for one in record["credentials"]} == {(place, f"azure:{ACCOUNT}")}
