"""The document of the API (src/api/openapi.json), and answers that are held against it."""

import functools
import json
import re

import jsonschema

import kit

FILE = kit.ROOT / "src/api/openapi.json"
DOCUMENT = json.loads(FILE.read_text())
RESOLVER = jsonschema.RefResolver.from_schema(DOCUMENT)
METHODS = ("get", "post", "patch", "delete", "put")


def operations():
    """(method, pattern, operation), in order."""
    return [(method.upper(), pattern, item[method]) for pattern, item in DOCUMENT["paths"].items() for method in item if method in METHODS]


def canonical(path):
    """Every path is there with /api and without it; the document says it once."""
    return re.sub(r"^/(v1|v2/sandboxes)(?=/)", r"/api/\1", path)


def resolved(node):
    while "$ref" in node:
        node = RESOLVER.resolve(node["$ref"])[1]
    return node


@functools.cache
def patterns():
    """The most literal first, as the router has it."""
    found = [(pattern, re.compile("/".join("[^/]+" if part.startswith("{") else re.escape(part) for part in pattern.split("/")))) for pattern in DOCUMENT["paths"]]
    return sorted(found, key=lambda entry: [part.startswith("{") for part in entry[0].split("/")])


def operation_of(method, target):
    path = canonical(target.split("?")[0].rstrip("/") or "/")
    method = "get" if method == "HEAD" else method.lower()
    for pattern, expression in patterns():
        if expression.fullmatch(path) and method in DOCUMENT["paths"][pattern]:
            return pattern, DOCUMENT["paths"][pattern][method]
    return None, None


def check_answer(method, target, status, content_type, text):
    """Whether an answer is one that the document has."""
    pattern, operation = operation_of(method, target)
    if operation is None:
        assert status >= 400, f"{method} {target} was answered with {status}, and is not in {FILE.name}"
        return
    where = f"{method} {pattern} was answered with {status}"
    answer = resolved(operation["responses"].get(str(status)) or operation["responses"]["default"])
    assert str(status) in operation["responses"] or status >= 400, f"{where}, which {FILE.name} has not under `responses`"
    if "content" not in answer or method == "HEAD":
        assert not text or method == "HEAD" or status >= 400, f"{where} and a body, of which {FILE.name} says nothing"
        return
    media = (content_type or "").split(";")[0]
    kinds = answer["content"]
    if media not in kinds and "application/octet-stream" in kinds:
        return  # The caller of a link chose it.
    assert media in kinds, f"{where} as {media!r}; {FILE.name} has {list(kinds)}"
    if media != "application/json":
        return
    mistake = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(kinds[media]["schema"], resolver=RESOLVER).iter_errors(json.loads(text)))
    assert mistake is None, f"{where}, which does not fit its schema in {FILE.name}, at {list(mistake.absolute_path)}: {mistake.message}"
