"""Who asks? Verifies X-LangSmith-Signature-JWT (RFC 7519; EdDSA, RFC 8037) with nothing but the `cryptography` package.

`pip install "langsmith[sandbox-auth]"` has a verifier that does the same: SandboxTokenVerifier.verify_callback().
"""

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.request

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SUBJECT = "langsmith-sandbox-callback"
LEEWAY = 30  # seconds by which clocks may differ
FETCH_EVERY = 30  # seconds between two looks for a key that is not known
KEY_SET_BYTES_MAX = 65536


class Refused(Exception):
    """The question is not from who we trust, or not for us."""


def decoded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Verifier:
    def __init__(self, jwks_url, audience, issuer=None):
        self.jwks_url, self.audience, self.issuer = jwks_url, audience, issuer
        self.keys, self.fetched = {}, None
        self.lock = threading.Lock()

    def verify(self, body, token):
        """The question, once everything about its signature is right."""
        try:
            signed, _, signature = token.rpartition(".")
            header, claims = (json.loads(decoded(part)) for part in signed.split("."))
            # The algorithm is ours to choose and not the token's: "none" and HMACs with a public key are old tricks.
            if header["alg"] != "EdDSA":
                raise Refused("another algorithm")
            self.key(header["kid"]).verify(decoded(signature), signed.encode())
            now = time.time()
            if not claims["nbf"] - LEEWAY <= now < claims["exp"] + LEEWAY:
                raise Refused("too early or too late")
            if claims["sub"] != SUBJECT or claims["aud"] != self.audience or self.issuer not in (None, claims["iss"]):
                raise Refused("meant for somebody else")
            if not hmac.compare_digest(claims["body_sha256"], hashlib.sha256(body).hexdigest()):
                raise Refused("another body")
            return json.loads(body)
        except InvalidSignature:
            raise Refused("forged") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(f"no token of the kind: {type(error).__name__}") from None

    def key(self, kid):
        with self.lock:
            if kid not in self.keys and (self.fetched is None or time.monotonic() - self.fetched > FETCH_EVERY):
                try:
                    with urllib.request.urlopen(self.jwks_url, timeout=5) as answer:
                        key_set = json.loads(answer.read(KEY_SET_BYTES_MAX))
                except OSError:
                    raise Refused("the keys cannot be fetched") from None
                self.fetched = time.monotonic()
                self.keys = {key["kid"]: Ed25519PublicKey.from_public_bytes(decoded(key["x"]))
                             for key in key_set["keys"] if (key.get("kty"), key.get("crv")) == ("OKP", "Ed25519")}
            if kid not in self.keys:
                raise Refused("an unknown key")
            return self.keys[kid]
