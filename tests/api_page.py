"""docs/api.md out of src/api/openapi.json: `./dev docs` writes it, and test_openapi.py looks whether it was written."""

import openapi_support as api


def type_of(schema):
    if "$ref" in schema:
        name = schema["$ref"].split("/")[-1]
        return f"[{name}](#{name.lower()})"
    if "oneOf" in schema:
        return " or ".join(type_of(one) for one in schema["oneOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kinds = schema.get("type", "anything")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if "array" in kinds:
        kinds[kinds.index("array")] = "list of " + type_of(schema.get("items", {}))
    if "format" in schema and "string" in kinds:
        kinds[kinds.index("string")] = {"date-time": "date", "binary": "bytes"}.get(schema["format"], schema["format"])
    return " or ".join(kinds)


def bounds_of(schema):
    words = [f"from {schema['minimum']}" if "minimum" in schema else "", f"to {schema['maximum']}" if "maximum" in schema else "",
             f"at most {schema['maxLength']} long" if "maxLength" in schema else "", f"at most {schema['maxItems']}" if "maxItems" in schema else ""]
    default = schema.get("default")
    words.append(f"else `{str(default).lower() if isinstance(default, bool) else default}`" if default is not None else "")
    return " ".join(word for word in words if word)


def told(*parts):
    return " ".join(part[0].upper() + part[1:] + ("" if part.endswith(".") else ".") for part in parts if part)


def rows(schema):
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        yield f"| `{name}`{' (required)' if name in required else ''} | {type_of(field)} | {told(field.get('description', ''), bounds_of(field))} |"


def operation_lines(method, pattern, operation):
    yield f"### {operation['summary']}\n"
    yield f"`{method} {pattern}`{' (without a key)' if operation.get('security') == [] else ''}\n"
    if "description" in operation:
        yield operation["description"] + "\n"
    queries = [one for one in operation.get("parameters", []) if one["in"] == "query"]
    if queries:
        yield "| query | is | |\n|---|---|---|"
        for one in queries:
            yield f"| `{one['name']}`{' (required)' if one.get('required') else ''} | {type_of(one['schema'])} | {told(one.get('description', ''), bounds_of(one['schema']))} |"
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Takes {type_of(content['schema'])} as `{media}`.\n"
    for status, answer in operation["responses"].items():
        if status == "default":
            continue
        content = " or ".join(f"{type_of(one['schema'])}{'' if media == 'application/json' else f' as `{media}`'}" for media, one in answer.get("content", {}).items())
        yield f"- **{status}** {answer['description']}{' ' + content if content else ''}"
    yield ""


def page():
    document = api.DOCUMENT
    lines = ["# The API, route by route", "", "<!-- Written by `./dev docs` from src/api/openapi.json. -->", "",
             document["info"]["description"] + " [docs/serve.md](serve.md) has the story.", "",
             "The same as OpenAPI 3.1 is in `src/api/openapi.json`, and at `/openapi.json` of every server. What is wrong is answered with [Error](#error): "
             "400, 401 without a good key, 403, 404, 409, 422 with every mistake of a document, 429, 501 for what this server has not, 503.", ""]
    tags = []
    for _, _, operation in api.operations():
        if operation["tags"][0] not in tags:
            tags.append(operation["tags"][0])
    for tag in tags:
        lines += [f"## {tag}", ""]
        for method, pattern, operation in api.operations():
            if operation["tags"][0] == tag:
                lines += operation_lines(method, pattern, operation)
    lines += ["## Documents", ""]
    for name, schema in document["components"]["schemas"].items():
        lines += [f"### {name}", ""]
        if "description" in schema:
            lines += [schema["description"], ""]
        if schema.get("properties"):
            lines += ["| field | is | |", "|---|---|---|", *rows(schema), ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
