"""The OpenAPI document, made of the routes and of what operations are asked with.

`python -m sensor.control.openapi > sensor/control/openapi.json`; a test keeps the file as this makes it.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from msgspec import Struct

from sensor import __version__
from sensor.control import routes
from sensor.control.application import EventQuery, StreamQuery
from sensor.control.routes import Route

Schema = dict[str, Any]
_REF = "#/components/schemas/{name}"

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
COUNTS: Schema = {"type": "object", "additionalProperties": COUNT}
WORDS: Schema = {"type": "array", "items": TEXT}
TIME: Schema = {"type": "integer", "description": "UTC in nanoseconds; 0: unknown."}


def _object(required: Schema, **more: Any) -> Schema:
    return {"type": "object", "required": list(required), "properties": required} | more


def _list(of: str | Schema) -> Schema:
    return {"type": "array", "items": _named(of) if isinstance(of, str) else of}


def _named(name: str) -> Schema:
    return {"$ref": _REF.format(name=name)}


ROW: Schema = {
    "id": COUNT,
    "name": TEXT,
    "class": TEXT,
    "runtime": TEXT,
    "path": TEXT,
    "processes": COUNT,
    "detections": COUNT,
    "lost": COUNTS,
    "state": TEXT,
    "quarantine": {"type": "string", "description": "Of the quarantine that holds it; empty: none does."},
}
PROCESS: Schema = {
    "tgid": COUNT, "parent_tgid": COUNT, "image": TEXT, "command_line": TEXT, "user": TEXT, "started_ns": TIME,
    "cgroup_id": COUNT, "entered": FLAG,
}  # fmt: skip
FLOW: Schema = {
    "tgid": COUNT, "protocol": TEXT, "initiated": FLAG, "local": TEXT, "remote": TEXT,
}  # fmt: skip
RATES: Schema = {
    "out_per_s": {"type": "number"},
    "in_per_s": {"type": "number"},
}
WOULD: Schema = {
    "description": "What a dry run says would be done.",
    **_object({"dry_run": {"const": True}, "would": WORDS}),
}
ANSWERS: Schema = {
    "Error": _object(
        {
            "error": {"type": "string", "description": "One line."},
            "code": {"enum": ["usage", "not_found", "denied", "conflict", "busy", "failed"]},
        }
    ),
    "Status": _object({"version": TEXT, "armed": FLAG, "rules": COUNT, "sandboxes": COUNT, "lost": COUNTS}),
    "Row": _object(ROW),
    "Sandboxes": _list("Row"),
    "Rules": _list(_object({"id": TEXT, "title": TEXT, "level": TEXT, "hits": COUNT})),
    "Sandbox": _object(
        ROW
        | {
            "labels": {"type": "object", "additionalProperties": TEXT},
            "attributes": {"type": "object", "additionalProperties": TEXT},
            "granted": WORDS,
            "born_ns": TIME,
            "ended_ns": TIME,
            "tampered": {"type": "string"},
            "flows": _list(_object(FLOW)),
            "more_flows": COUNT,
        }
    ),
    "Tree": _object({"id": COUNT, "name": TEXT, "processes": _list(_object(PROCESS)), "more": COUNT}),
    "Killed": _object({"id": COUNT, "name": TEXT, "killed": _list(COUNT), "complete": FLAG}),
    "Attributes": _object({"id": COUNT, "attributes": {"type": "object", "additionalProperties": TEXT}}),
    "Quarantine": _object({"id": TEXT, "state": TEXT, "steps": _list({"type": "object"})}),
    "Quarantines": _list("Quarantine"),
    "Policy": _object({"classes": {"type": "object"}, "sandboxes": _list({"type": "object"})}),
    "Explanation": {"type": "object"},
    "Asked": _object({"asked": FLAG}),
    "Armed": _object({"armed": FLAG}),
    "Detection": {
        "description": "A `detection` record of the log (sensor/export/schema.json), and who has seen to it.",
        **_object({"id": TEXT, "kind": {"const": "detection"}, "time": TEXT, "rule": {"type": "object"}}),
    },
    "Detections": _list("Detection"),
    "Acknowledged": _object({"id": TEXT, "acknowledged": {"type": "object"}}),
    "Silence": _object({"id": TEXT}),
    "Silences": _list("Silence"),
    "Top": _object(
        {
            "time_ns": TIME,
            "sandboxes": _list(_object(ROW | RATES | {"events_per_s": {"type": "number"}})),
            "talkers": _list(_object(FLOW | RATES | {"sandbox": TEXT, "sandbox_id": COUNT})),
        }
    ),
    "Recording": _object(
        {"running": FLAG, "path": TEXT, "records": COUNT, "bytes": COUNT, "seconds": COUNT, "reason": TEXT}
    ),
    "Would": WOULD,
}
_WHY = {
    400: "What was asked is wrong.",
    403: "Who asks may not.",
    404: "There is no such thing.",
    405: "Not this method.",
    409: "Not as things stand, or several are meant.",
    413: "The body is too large.",
    429: "Too much was asked for.",
    500: "It failed.",
    503: "The core does not answer.",
}


def document() -> Schema:
    paths: Schema = {}
    for provided in routes.PROVIDED:
        paths[provided.path] = {"get": _operation(provided.name, provided.summary, [], None, provided.answer, 200)}
    for streamed in routes.STREAMED:
        name = "detections_stream" if streamed.detections else "events_stream"
        query = _parameters(StreamQuery if streamed.detections else EventQuery, streamed.path, "query")
        made = _operation(name, streamed.summary, query, None, None, 200)
        made["responses"]["200"] = {
            "description": 'A record a line; where the reader is slow a line {"kind":"dropped","count":N}; empty lines '
            "where nothing comes.",
            "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
        }
        paths[streamed.path] = {"get": made}
    for route in routes.ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _of_route(route)
    text = {"schema": {"type": "string"}}
    described = _operation("openapi", "This document.", [], None, "Explanation", 200)
    paths["/v1/openapi.json"] = {"get": described}
    metrics = _operation("metrics", "For Prometheus.", [], None, None, 200)
    metrics["responses"]["200"] = {
        "description": "Prometheus text, or OpenMetrics.",
        "content": {"text/plain": text, "application/openmetrics-text": text},
    }
    paths["/metrics"] = {"get": metrics}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pinfold",
            "version": __version__,
            "description": "The control socket of a host's sensor: HTTP over the Unix socket control.sock. Members of "
            "its group may read; root and control.uids may change things; control.launchers may touch what they "
            "started. A process of a sandbox gets nothing.",
        },
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": ANSWERS,
            "responses": {
                f"Error{code}": {"description": why, "content": {"application/json": {"schema": _named("Error")}}}
                for code, why in _WHY.items()
            },
        },
    }


def _of_route(route: Route) -> Schema:
    parameters = _parameters(route.arguments, route.path, "path")
    body: Schema | None = None
    if route.method == "POST":
        body = _body(route)
    else:
        parameters += _parameters(route.arguments, route.path, "query")
    made = _operation(route.operation, route.summary, parameters, body, route.answer, route.status)
    if "dry_run" in route.arguments.__struct_fields__:
        content = {"application/json": {"schema": _named("Would")}}
        if route.status == 200:
            content = {"application/json": {"schema": {"anyOf": [_named(route.answer), _named("Would")]}}}
        made["responses"]["200"] = {"description": "Done; or, of a dry run, what would be.", "content": content}
    return made


def _operation(  # noqa: PLR0917 - what it joins
    name: str, summary: str, parameters: list[Schema], body: Schema | None, answer: str | None, status: int
) -> Schema:
    made: Schema = {"operationId": name, "summary": summary}
    if parameters:
        made["parameters"] = parameters
    if body is not None:
        made["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    made["responses"] = {str(code): {"$ref": f"#/components/responses/Error{code}"} for code in _WHY}
    if answer is not None:
        made["responses"][str(status)] = {
            "description": "It is as asked.",
            "content": {"application/json": {"schema": _named(answer)}},
        }
    return made


def _struct(kind: type[Struct]) -> Schema:
    (_,), components = msgspec.json.schema_components([kind], ref_template=_REF)
    found: Schema = components[kind.__name__]
    return found


def _body(route: Route) -> Schema:
    whole = _struct(route.arguments)
    inside = {name: kind for name, kind in whole["properties"].items() if f"{{{name}}}" not in route.path}
    return {
        "type": "object",
        "properties": inside,
        "required": [name for name in whole["required"] if name in inside],
        "additionalProperties": False,
    }


def _parameters(kind: type[Struct], path: str, place: str) -> list[Schema]:
    whole = _struct(kind)
    found = []
    for name, schema in whole["properties"].items():
        if (f"{{{name}}}" in path) != (place == "path"):
            continue
        required = place == "path" or name in whole["required"]
        found.append({"name": name, "in": place, "required": required, "schema": _plain(schema)})
    return found


def _plain(schema: Schema) -> Schema:
    """Without null, which a path or a query cannot hold."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return {name: value for name, value in schema.items() if not (name == "default" and value is None)}
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n")
