"""A callback endpoint: Postern asks it for the headers of a request, and it answers with a credential that is good for minutes.

It shows what each such endpoint has to do: verify who asks, look at what for, answer briefly, and keep nothing. What it issues is a
stand-in: put the call to your token service into issue().
"""

import argparse
import base64
import hashlib
import hmac
import http.server
import json
import os
import secrets
import ssl
import sys
import threading
import time
import urllib.parse

QUESTION_BYTES_MAX = 4 * 1024 * 1024  # A request is shown with up to 1 MiB of its body, in base64.
LEEWAY = 60  # seconds for which a token may still be taken after its end, and more
LIFETIME = 300  # of what is issued: at least the policy's ttl_seconds, and time for the request itself


def sdk_verifier(options):
    """The published SDK's: pip install "langsmith[sandbox-auth]"."""
    from langsmith.sandbox import SandboxTokenVerificationError, SandboxTokenVerifier

    verifier = SandboxTokenVerifier(jwks_url=options.jwks)

    def verify(body, signature):
        verifier.verify_callback(body=body, signature=signature, aud=options.audience, issuer=options.issuer)
        return json.loads(body)
    return verify, SandboxTokenVerificationError


def own_verifier(options):
    import signature

    return signature.Verifier(options.jwks, options.audience, options.issuer).verify, signature.Refused


class Seen:
    """The `jti` of each token until it has expired: a question that was overheard cannot be asked again."""

    def __init__(self):
        self.until, self.lock = {}, threading.Lock()

    def first_time(self, token):
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==="))  # Verified before.
        now = time.time()
        with self.lock:
            self.until = {jti: end for jti, end in self.until.items() if end > now}
            if claims["jti"] in self.until:
                return False
            self.until[claims["jti"]] = claims["exp"] + LEEWAY
            return True


def issue(key, question):
    """The headers for the host that is asked about. Here: a token that says for whom and until when."""
    claims = {"for": question["host"], "sandbox": question["identity"]["sandbox_id"], "until": int(time.time()) + LIFETIME}
    text = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return {"Authorization": f"Bearer {text}.{hmac.new(key, text.encode(), hashlib.sha256).hexdigest()}"}


class Endpoint(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # Postern keeps the connection for the next question.
    timeout = 60

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > QUESTION_BYTES_MAX:
            self.close_connection = True
            return self.answer(413, {"error": "too large"})
        body = self.rfile.read(int(length))
        token = self.headers.get("X-LangSmith-Signature-JWT", "")
        if self.path != self.server.path:
            return self.answer(404, {"error": "not here"})
        try:
            question = self.server.verify(body, token)
        except self.server.refusal as refusal:
            self.log_message("refused: %s", refusal)
            return self.answer(401, {"error": "not verified"})
        if not self.server.seen.first_time(token):
            self.log_message("refused: seen before")
            return self.answer(401, {"error": "not verified"})
        # The sandbox chose the host, within the policy. What it may have is decided here, and by who it is.
        identity = question["identity"]
        if self.server.sandboxes and f"{identity['tenant_id']}/{identity['sandbox_id']}" not in self.server.sandboxes:
            return self.answer(403, {"error": "not for this sandbox"})
        self.log_message("issued for %s:%s of %s/%s", question["host"], question["port"], identity["tenant_id"], identity["sandbox_id"])
        self.answer(200, {"headers": issue(self.server.key, question)})

    def answer(self, status, value):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    words = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    words.add_argument("--audience", required=True, metavar="URL", help="the callback's url, byte for byte as the policy has it")
    words.add_argument("--jwks", required=True, metavar="URL", help="where the signing key is published: see postern run --callback-jwks")
    words.add_argument("--issuer", metavar="URL", help="the tokens' iss, when it shall be looked at")
    words.add_argument("--listen", default="127.0.0.1:8010", metavar="ADDRESS:PORT")
    words.add_argument("--certificate", metavar="FILE", help="PEM; plain HTTP is only for addresses that Postern's operator opened")
    words.add_argument("--key", metavar="FILE")
    words.add_argument("--sandbox", action="append", default=[], metavar="TENANT/SANDBOX", help="who may ask (several; default: whoever is verified)")
    words.add_argument("--verifier", choices=("own", "sdk"), default="own", help="signature.py beside this file, or the langsmith package")
    options = words.parse_args()

    address, _, port = options.listen.rpartition(":")
    server = Server((address, int(port)), Endpoint)
    server.path = urllib.parse.urlsplit(options.audience).path or "/"
    server.verify, server.refusal = (own_verifier if options.verifier == "own" else sdk_verifier)(options)
    server.seen, server.sandboxes = Seen(), set(options.sandbox)
    # Whoever checks what is issued needs the key; without one, nobody can.
    server.key = os.environb.get(b"ISSUING_KEY") or secrets.token_bytes(32)
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        # Not in accept(): a client that says nothing would keep everybody waiting.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    print(f"listening on {options.listen}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
