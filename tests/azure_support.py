"""A storage account of Azure that checks signatures, written from its documentation and from nothing of Postern's.

Azure Storage REST API: "Authorize with Shared Key", for the Blob and the Table service. It keeps blobs, and answers a little more.
"""

import base64
import hashlib
import hmac
import urllib.parse

from https_service import HttpsService

STANDARD = ["content-encoding", "content-language", "content-length", "content-md5", "content-type", "date", "if-modified-since", "if-match", "if-none-match",
            "if-unmodified-since", "range"]


def blob_text(account, method, target, fields):
    path, _, query = target.partition("?")
    one = {}
    for name, value in fields:
        assert name.lower() not in one, f"{name} is there twice"
        one[name.lower()] = value.strip()
    values = [one.get(name, "") for name in STANDARD]
    values[2] = "" if values[2] == "0" else values[2]
    values[5] = "" if "x-ms-date" in one else values[5]
    named = "".join(f"{name}:{one[name]}\n" for name in sorted(one) if name.startswith("x-ms-"))
    parameters = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        parameters.setdefault(name.lower(), []).append(value)
    resource = f"/{account}{path}" + "".join(f"\n{name}:{','.join(sorted(parameters[name]))}" for name in sorted(parameters))
    return "\n".join([method, *values]) + "\n" + named + resource


def table_text(account, method, target, fields):
    path, _, query = target.partition("?")
    one = {name.lower(): value.strip() for name, value in fields}
    comp = dict(urllib.parse.parse_qsl(query)).get("comp")
    return "\n".join([method, one.get("content-md5", ""), one.get("content-type", ""), one.get("x-ms-date") or one["date"],
                      f"/{account}{path}" + (f"?comp={comp}" if comp else "")])


class Storage(HttpsService):
    """Serves the account's hosts over HTTPS; a request must be signed with `key` or carry `sas`."""

    def __init__(self, authority, account, key=None, sas=None):
        self.account, self.key, self.sas = account, key, sas
        self.blobs, self.blocks, self.accepted, self.refused = {}, {}, [], []
        super().__init__(authority, [f"{account}.{service}.core.windows.net" for service in ("blob", "table")])

    def serve(self, handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
        target, fields = handler.path, list(handler.headers.raw_items())
        if self.allows(handler.command, target, fields):
            self.accepted.append((handler.command, target))
            answer = self.answer(handler.command, target, dict((name.lower(), value) for name, value in fields), body)
        else:
            self.refused.append((handler.command, target, fields))
            answer = 403, {"x-ms-error-code": "AuthenticationFailed"}, b""
        self.reply(handler, *answer)

    def allows(self, method, target, fields):
        one = {name.lower(): value for name, value in fields}
        if self.sas:
            return "authorization" not in one and target.endswith(self.sas)
        text = (table_text if ".table." in one["host"] else blob_text)(self.account, method, target, fields)
        signature = base64.b64encode(hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()).decode()
        return one.get("authorization") == f"SharedKey {self.account}:{signature}"

    def answer(self, method, target, fields, body):
        path, _, query = target.partition("?")
        parameters = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        done = {"ETag": '"0x1"', "Last-Modified": "Fri, 02 Jan 2026 00:00:00 GMT"}
        if ".table." in fields["host"]:
            return 200, {"Content-Type": "application/json;odata=minimalmetadata"}, b'{"value": [{"TableName": "first"}]}'
        if parameters.get("comp") == "list":
            names = "".join(f"<Blob><Name>{name.split('/', 2)[2]}</Name><Properties><BlobType>BlockBlob</BlobType></Properties></Blob>" for name in sorted(self.blobs))
            return 200, {"Content-Type": "application/xml"}, f"<?xml version='1.0'?><EnumerationResults><Blobs>{names}</Blobs></EnumerationResults>".encode()
        if method == "PUT" and parameters.get("comp") == "block":
            self.blocks.setdefault(path, []).append(body)
            return 201, done, b""
        if method == "PUT" and parameters.get("comp") == "blocklist":
            self.blobs[path] = b"".join(self.blocks.pop(path))
            return 201, done, b""
        if method == "PUT" and "restype" in parameters:
            return 201, done, b""
        if method == "PUT":
            self.blobs[path] = body
            return 201, done, b""
        data = self.blobs[path]
        return 206, {**done, "Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}", "x-ms-blob-type": "BlockBlob"}, data
