"""A storage account of Azure that checks signatures, written from its documentation and from nothing of Postern's.

Azure Storage REST API: "Authorize with Shared Key", for the Blob and the Table service. It keeps blobs, and answers a little more.
"""

import base64
import hashlib
import hmac
import http.server
import ssl
import threading
import urllib.parse

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


class Storage:
    """Serves the account's hosts over HTTPS; a request must be signed with `key` or carry `sas`."""

    def __init__(self, authority, account, key=None, sas=None):
        self.account, self.key, self.sas = account, key, sas
        self.blobs, self.blocks, self.accepted, self.refused = {}, {}, [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def serve(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                target, fields = self.path, list(self.headers.raw_items())
                if outer.allows(self.command, target, fields):
                    outer.accepted.append((self.command, target))
                    status, headers, answer = outer.answer(self.command, target, dict((name.lower(), value) for name, value in fields), body)
                else:
                    outer.refused.append((self.command, target, fields))
                    status, headers, answer = 403, {"x-ms-error-code": "AuthenticationFailed"}, b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_POST = do_DELETE = serve

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, authority.certificate(*[f"{account}.{service}.core.windows.net" for service in ("blob", "table")])))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

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
