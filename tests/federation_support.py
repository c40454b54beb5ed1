"""The clouds' token services: they give credentials for a token of an issuer that they trust, whose key they look up as OpenID Connect
Discovery says. Written from their documentation and from nothing of Postern's.

AWS STS: AssumeRoleWithWebIdentity; Google: Security Token Service `token`, IAM Credentials `generateAccessToken`; Entra: "client credentials flow,
access token request with a federated credential".
"""

import base64
import json
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

from https_service import HttpsService

STS, GOOGLE, IMPERSONATION, ENTRA = "sts.amazonaws.com", "sts.googleapis.com", "iamcredentials.googleapis.com", "login.microsoftonline.com"
HOSTS = [STS, GOOGLE, IMPERSONATION, ENTRA]


class Refused(Exception):
    pass


def decoded(part):
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def fetched(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


class TokenServices(HttpsService):
    """`issuer` is trusted; `at` is where this machine finds it. `subject`: whom the credentials are for. What is given out:
    `aws` (key id, secret, session token), `federated` and `token`."""

    def __init__(self, authority, issuer, at, subject, aws=None, federated="federated", token="token"):
        self.issuer, self.found_at, self.subject = issuer, at, subject
        self.aws, self.federated, self.token = aws, federated, token
        self.claims, self.asked, self.refused = [], [], []
        super().__init__(authority, HOSTS)

    def verify(self, token, audience):
        """The claims of a token that is good for `audience`. RFC 7519, OpenID Connect Discovery 1.0 §4."""
        head, payload, signature = token.split(".")
        header, claims = json.loads(decoded(head)), json.loads(decoded(payload))
        found = fetched(self.found_at + "/.well-known/openid-configuration")
        if found["issuer"] != self.issuer or header["alg"] not in found["id_token_signing_alg_values_supported"]:
            raise Refused(f"{found} {header}")
        keys = fetched(found["jwks_uri"].replace(self.issuer, self.found_at, 1))["keys"]
        (key,) = [key for key in keys if key["kid"] == header["kid"]]
        numbers = rsa.RSAPublicNumbers(*(int.from_bytes(decoded(key[name]), "big") for name in "en"))
        numbers.public_key().verify(decoded(signature), f"{head}.{payload}".encode(), padding.PKCS1v15(), SHA256())
        now = time.time()
        expected = {"iss": self.issuer, "aud": audience, "sub": self.subject}
        if {name: claims[name] for name in expected} != expected or not claims["nbf"] <= now < claims["exp"] <= now + 3600:
            raise Refused(f"{claims} instead of {expected}")
        self.claims.append(claims)
        return claims

    def serve(self, handler):
        body = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
        host = handler.headers["Host"]
        self.asked.append((host, handler.path))
        try:
            self.reply(handler, 200, *self.answer(host, handler, body))
        except Exception as refused:
            self.refused.append(repr(refused))
            self.reply(handler, 403, {"Content-Type": "application/json"}, b'{"error": "invalid_grant"}')

    def answer(self, host, handler, body):
        json_type = {"Content-Type": "application/json"}
        if host == IMPERSONATION:
            if handler.headers["Authorization"] != f"Bearer {self.federated}":
                raise Refused(handler.headers["Authorization"])
            ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600))
            return json_type, json.dumps({"accessToken": self.token, "expireTime": ends}).encode()
        form = dict(urllib.parse.parse_qsl(body, strict_parsing=True))
        if host == STS:
            return {"Content-Type": "text/xml"}, self.assume(form)
        if host == GOOGLE:
            if form["grant_type"] != "urn:ietf:params:oauth:grant-type:token-exchange" or "Authorization" in handler.headers:
                raise Refused(repr(form))
            self.verify(form["subject_token"], "https:" + form["audience"])
        else:
            if form["client_assertion_type"] != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" or form["grant_type"] != "client_credentials":
                raise Refused(repr(form))
            self.verify(form["client_assertion"], "api://AzureADTokenExchange")
            self.scope = form["scope"]
        return json_type, json.dumps({"access_token": self.federated, "token_type": "Bearer", "expires_in": 3600}).encode()

    def assume(self, form):
        if form["Action"] != "AssumeRoleWithWebIdentity" or form["Version"] != "2011-06-15":
            raise Refused(repr(form))
        self.verify(form["WebIdentityToken"], "sts.amazonaws.com")
        self.role = form["RoleArn"], form["RoleSessionName"]
        answer = xml.etree.ElementTree.Element("AssumeRoleWithWebIdentityResponse", xmlns="https://sts.amazonaws.com/doc/2011-06-15/")
        result = xml.etree.ElementTree.SubElement(answer, "AssumeRoleWithWebIdentityResult")
        credentials = xml.etree.ElementTree.SubElement(result, "Credentials")
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + int(form["DurationSeconds"])))
        for name, value in zip(("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"), (*self.aws, ends)):
            xml.etree.ElementTree.SubElement(credentials, name).text = value
        return xml.etree.ElementTree.tostring(answer)
