"""What a callback was sent, as JSON on standard input, verified by the SDK as the callback's author would."""

import json
import sys

from langsmith.sandbox import SandboxTokenVerificationError, SandboxTokenVerifier

asked = json.load(sys.stdin)
verifier = SandboxTokenVerifier()
seen = verifier.verify_callback(body=asked["body"], signature=asked["signature"], aud=asked["url"], issuer=asked["issuer"])
found = {"host": seen.host, "port": seen.port, "tenant": seen.identity.tenant_id, "sandbox": seen.identity.sandbox_id, "refused": []}
for body, url in ((asked["body"] + " ", asked["url"]), (asked["body"], asked["url"] + "/")):
    try:
        verifier.verify_callback(body=body, signature=asked["signature"], aud=url)
    except SandboxTokenVerificationError:
        found["refused"].append(True)
print(json.dumps(found))
