"""The OpenAPI document, and the application held against it: schemathesis asks a real api process over its socket what
the document allows and what it forbids, and compares the answers with what the document promises."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from requests.adapters import HTTPAdapter
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool

from sensor.control import arguments, openapi, routes
from sensor.control.admissions import Admissions
from sensor.control.link import Desk
from tests.control import fake_core
from tests.control.fake_core import FakeCore
from tests.control.service import PATIENCE_S, serving

FILE = Path(openapi.__file__).with_name("openapi.json")
EXAMPLES = 12  # of each operation
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


class _Connection(HTTPConnection):
    path = ""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self.path)


class _Adapter(HTTPAdapter):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__()
        kind = type("Connection", (_Connection,), {"path": path})
        self._pool = HTTPConnectionPool("pinfold")
        self._pool.ConnectionCls = kind

    def get_connection_with_tls_context(self, *_: Any, **__: Any) -> HTTPConnectionPool:
        return self._pool


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[requests.Session]:
    core = FakeCore()
    with pytest.MonkeyPatch.context() as patch, requests.Session() as session:
        patch.setattr(Admissions, "_bucket", lambda *_: _Endless())  # rates have tests of their own
        answers = {name: msgspec.json.encode(answer) for name, answer in fake_core.PROVIDED.items()}
        with serving(tmp_path_factory.mktemp("openapi"), desk=Desk(call=core.call), answers=answers) as service:
            session.mount("http://pinfold", _Adapter(str(service.control_path)))
            yield session


class _Endless:
    def take(self) -> bool:
        return True


def test_the_file_is_what_the_routes_make() -> None:
    made = msgspec.json.format(msgspec.json.encode(openapi.document()), indent=2) + b"\n"
    assert FILE.read_bytes() == made, "python -m sensor.control.openapi > sensor/control/openapi.json"


def test_every_operation_is_served_and_described_once() -> None:
    described = [
        operation["operationId"] for path in openapi.document()["paths"].values() for operation in path.values()
    ]
    assert len(described) == len(set(described))
    assert set(arguments.ALL) - {"resolve"} == {route.operation for route in routes.ROUTES}
    assert set(arguments.ALL) - {"resolve"} <= set(described)


def test_every_change_demands_a_reason() -> None:
    for name in arguments.ALL:
        fields = {field.name: field for field in msgspec.structs.fields(arguments.ALL[name])}
        assert arguments.changes(name) == ("reason" in fields)
        assert "reason" not in fields or fields["reason"].required


def test_every_answer_of_the_fake_core_is_as_described() -> None:
    """Else what schemathesis finds would be the fake's own."""
    import jsonschema  # type: ignore[import-untyped]  # noqa: PLC0415

    document = openapi.document()
    for route in routes.ROUTES:
        answer = fake_core.ANSWERS[route.operation]
        if route.operation.startswith("detection"):
            continue  # the api takes these apart
        schema = {"$ref": f"#/components/schemas/{route.answer}", "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(answer)


def _schema() -> Any:
    document = json.loads(FILE.read_text())
    for path in [path for path in document["paths"] if path.endswith("/stream")]:
        del document["paths"][path]  # these do not end
    return schemathesis.openapi.from_dict(document)


def _keeps(case: Any, session: requests.Session) -> None:
    case.call_and_validate(session=session, base_url="http://pinfold", checks=CHECKS)


test_the_application_keeps_what_the_document_promises = _schema().parametrize()(
    settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )(_keeps)
)
