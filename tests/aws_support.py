"""An AWS that checks signatures, written from its documentation and from nothing of Postern's.

AWS: "Create a signed AWS API request" (IAM); "Authenticating Requests (AWS Signature Version 4)" (S3), with "Transferring Payload in
Multiple Chunks" and "Including Trailing Headers". It keeps objects as S3 does, and answers a little of DynamoDB and STS.
"""

import base64
import hashlib
import hmac
import re
import urllib.parse
import xml.etree.ElementTree
import zlib

from https_service import HttpsService

EMPTY = hashlib.sha256(b"").hexdigest()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signing_key(secret, scope):
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = mac(key, part)
    return key


def encoded(text, safe=""):
    return urllib.parse.quote(text, safe="-_.~" + safe)


def canonical_path(path, service):
    """S3 takes a path as it is sent, once encoded; the others remove dot segments and encode once more."""
    if service == "s3":
        return encoded(urllib.parse.unquote_to_bytes(path), "/")
    parts = []
    for part in path.split("/"):
        if part == "..":
            parts and parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    normal = "/" + "/".join(parts) + ("/" if path.endswith("/") and parts else "")
    return encoded(normal, "/")


def canonical_query(query):
    pairs = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        pairs.append((encoded(urllib.parse.unquote_to_bytes(name)), encoded(urllib.parse.unquote_to_bytes(value))))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def canonical_fields(fields, names):
    out = ""
    for name in names:
        values = [value for field, value in fields if field.lower() == name]
        if not values:
            raise Refused("SignatureDoesNotMatch", f"{name} is signed and not there")
        out += name + ":" + ",".join(re.sub(" +", " ", value.strip()) for value in values) + "\n"
    return out


class Refused(Exception):
    def __init__(self, code, message, status=403):
        super().__init__(message)
        self.code, self.message, self.status = code, message, status


class Verified:
    """A request whose signature is right."""

    def __init__(self, key_id, scope, date, signature, payload, presigned):
        self.key_id, self.scope, self.date, self.signature, self.payload, self.presigned = key_id, scope, date, signature, payload, presigned
        self.region, self.service = scope.split("/")[1:3]


def verify(method, target, fields, secret, host_service):
    """The signature of a head. `fields`: pairs, as they came. Raises Refused."""
    path, _, query = target.partition("?")
    one = {}
    for name, value in fields:
        if name.lower() in one and name.lower().startswith(("authorization", "x-amz-")):
            raise Refused("InvalidRequest", f"{name} is there twice")
        one[name.lower()] = value.strip()
    parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    presigned = "X-Amz-Signature" in parameters
    if presigned and "authorization" in one:
        raise Refused("InvalidArgument", "Only one auth mechanism allowed", 400)
    if presigned:
        credential, listed, signature, date = (parameters["X-Amz-" + name] for name in ("Credential", "SignedHeaders", "Signature", "Date"))
        query = "&".join(part for part in query.split("&") if not part.startswith("X-Amz-Signature="))
        payload = parameters.get("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
        token = parameters.get("X-Amz-Security-Token")
    else:
        if "authorization" not in one:
            raise Refused("AccessDenied", "there is no signature")
        found = re.fullmatch(r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})", one["authorization"])
        if not found:
            raise Refused("AuthorizationHeaderMalformed", "Authorization cannot be read", 400)
        credential, listed, signature = found.groups()
        date, payload, token = one["x-amz-date"], one.get("x-amz-content-sha256"), one.get("x-amz-security-token")
    key_id, _, scope = credential.partition("/")
    if scope.split("/")[0] != date[:8] or scope.split("/")[2:] != [host_service, "aws4_request"]:
        raise Refused("SignatureDoesNotMatch", f"scope {scope}")
    names = listed.split(";")
    if names != sorted(names) or "host" not in names:
        raise Refused("SignatureDoesNotMatch", f"signed headers {listed}")
    # Not a field of AWS's own may be there that nobody signed.
    unsigned = [name for name in one if name.startswith("x-amz-") and name not in names]
    if unsigned:
        raise Refused("AccessDenied", f"not signed: {unsigned}")
    verified = Verified(key_id, scope, date, signature, payload, presigned)
    verified.token = token
    verified.finish = lambda payload_hash: _compare(
        "\n".join([method, canonical_path(path, host_service), canonical_query(query), canonical_fields(fields, names), listed, payload_hash]),
        date, scope, secret, signature)
    return verified


def _compare(canonical, date, scope, secret, signature):
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, sha256(canonical.encode("latin-1"))])
    if mac(signing_key(secret, scope), text).hex() != signature:
        raise Refused("SignatureDoesNotMatch", canonical)


def dechunked(body, verified, secret, decoded_length):
    """The data of a body in AWS's chunks."""
    key, previous, data = signing_key(secret, verified.scope), verified.signature, b""
    is_signed = "UNSIGNED" not in verified.payload
    while True:
        line, _, body = body.partition(b"\r\n")
        size, _, extension = line.decode().partition(";")
        chunk, body = body[:int(size, 16)], body[int(size, 16):]
        if is_signed:
            text = "\n".join(["AWS4-HMAC-SHA256-PAYLOAD", verified.date, verified.scope, previous, EMPTY, sha256(chunk)])
            previous = mac(key, text).hex()
            if extension != "chunk-signature=" + previous:
                raise Refused("SignatureDoesNotMatch", f"chunk at {len(data)}")
        data += chunk
        if not chunk:
            break
        assert body.startswith(b"\r\n")
        body = body[2:]
    if len(data) != decoded_length:
        raise Refused("IncompleteBody", f"{len(data)} instead of {decoded_length}", 400)
    trailers = [tuple(line.partition(":")[::2]) for line in body.decode().split("\r\n") if line]
    if verified.payload.startswith("STREAMING-AWS4") and verified.payload.endswith("-TRAILER"):
        said = dict(trailers)["x-amz-trailer-signature"]
        signed = "".join(f"{name}:{value.strip()}\n" for name, value in trailers if name != "x-amz-trailer-signature")
        text = "\n".join(["AWS4-HMAC-SHA256-TRAILER", verified.date, verified.scope, previous, sha256(signed.encode())])
        if mac(key, text).hex() != said:
            raise Refused("SignatureDoesNotMatch", "trailer")
    for name, value in trailers:
        if name.lower() == "x-amz-checksum-crc32" and base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode() != value.strip():
            raise Refused("BadDigest", "crc32", 400)
    return data


class Aws(HttpsService):
    """Serves HTTPS for `names` with a certificate of `authority`; every request must be signed with `secret`."""

    def __init__(self, authority, names, key_id, secret, token=None):
        self.key_id, self.secret, self.token = key_id, secret, token
        self.objects, self.uploads, self.verified, self.refused = {}, {}, [], []
        self.raw = []  # Every head and body, as it came.
        super().__init__(authority, names)

    def serve(self, handler):
        body = self.read(handler)
        fields = list(handler.headers.raw_items())
        self.raw.append((handler.requestline, fields, body))
        try:
            answer = self.answer(handler.command, handler.path, fields, body)
        except Refused as refused:
            self.refused.append((handler.requestline, refused.code, refused.message))
            answer = refused.status, {}, f"<Error><Code>{refused.code}</Code><Message>refused</Message></Error>".encode()
        self.reply(handler, *answer)

    @staticmethod
    def read(handler):
        if handler.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = b""
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                body += handler.rfile.read(size)
                handler.rfile.readline()
            while handler.rfile.readline() not in (b"\r\n", b""):
                pass
            return body
        return handler.rfile.read(int(handler.headers.get("Content-Length", "0")))

    def answer(self, method, target, fields, body):
        one = {name.lower(): value for name, value in fields}
        service = "s3" if re.search(r"(^|\.)s3\.", one["host"]) else one["host"].split(".")[0]
        verified = verify(method, target, fields, self.secret, service)
        if verified.key_id != self.key_id or verified.token != self.token:
            raise Refused("InvalidAccessKeyId", f"{verified.key_id} {verified.token}")
        if verified.payload is None or re.fullmatch("[0-9a-f]{64}", verified.payload):
            if verified.payload not in (None, sha256(body)):
                raise Refused("XAmzContentSHA256Mismatch", "body", 400)
            verified.finish(sha256(body))
        else:
            verified.finish(verified.payload)
            if verified.payload.startswith("STREAMING-"):
                body = dechunked(body, verified, self.secret, int(one["x-amz-decoded-content-length"]))
        self.verified.append((method, target, verified))
        if service == "s3":
            return self.s3(method, target, one, body)
        if service == "dynamodb":
            return 200, {"Content-Type": "application/x-amz-json-1.0"}, b'{"TableNames": ["first", "second"]}'
        answer = xml.etree.ElementTree.Element("GetCallerIdentityResponse", xmlns="https://sts.amazonaws.com/doc/2011-06-15/")
        result = xml.etree.ElementTree.SubElement(answer, "GetCallerIdentityResult")
        for name, value in (("Arn", "arn:aws:iam::123456789012:user/agent"), ("UserId", "AIDA"), ("Account", "123456789012")):
            xml.etree.ElementTree.SubElement(result, name).text = value
        return 200, {"Content-Type": "text/xml"}, xml.etree.ElementTree.tostring(answer)

    def s3(self, method, target, fields, body):
        path, _, query = target.partition("?")
        parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        name = urllib.parse.unquote(path)
        if fields["host"].split(".")[0] != "s3":
            name = "/" + fields["host"].split(".")[0] + name
        if method == "POST" and "uploads" in parameters:
            number = str(len(self.uploads) + 1)
            self.uploads[number] = {}
            return 200, {}, f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>".encode()
        if method == "PUT" and "partNumber" in parameters:
            self.uploads[parameters["uploadId"]][int(parameters["partNumber"])] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if method == "POST" and "uploadId" in parameters:
            parts = self.uploads.pop(parameters["uploadId"])
            self.objects[name] = b"".join(parts[number] for number in sorted(parts))
            return 200, {}, b'<CompleteMultipartUploadResult><ETag>"x"</ETag></CompleteMultipartUploadResult>'
        if method == "PUT":
            self.objects[name] = body
            return 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}, b""
        if method == "GET" and parameters.get("list-type") == "2":
            keys = ""
            for key, data in sorted(self.objects.items()):
                if (key := key.split("/", 2)[2]).startswith(parameters.get("prefix", "")):
                    keys += f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><LastModified>2026-01-02T00:00:00Z</LastModified></Contents>"
            return 200, {"Content-Type": "application/xml"}, f"<ListBucketResult><IsTruncated>false</IsTruncated>{keys}</ListBucketResult>".encode()
        if name not in self.objects:
            raise Refused("NoSuchKey", name, 404)
        data = self.objects[name]
        if method == "DELETE":
            del self.objects[name]
            return 204, {}, b""
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", fields.get("range", "")):
            first, last = int(found[1]), min(int(found[2] or len(data) - 1), len(data) - 1)
            return 206, {"Content-Range": f"bytes {first}-{last}/{len(data)}", "ETag": '"x"'}, data[first:last + 1]
        return 200, {"X-Length": str(len(data)), "Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT", "ETag": '"x"'}, data
