"""Requests that carry something, through a real api process to a core that is played."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.configcontrol import Control, Launcher
from sensor.control import arguments, gate, wire
from sensor.control.client import Client, _Connection
from sensor.control.link import Desk
from sensor.errors import ClientError, DeniedError, NotFoundError, UsageError
from tests.control.fake_core import FakeCore
from tests.control.service import PATIENCE_S, Service, serving
from tests.control.users import GID, GROUP, NOBODY, STRANGER, ask, hammering, holding, open_folder

CONTROL = Control(uids=(STRANGER,), group=GROUP, launchers=(Launcher(NOBODY, ("docker",)),))
WHY = {"reason": "because"}


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


@pytest.fixture
def service(core: FakeCore) -> Iterator[Service]:
    with open_folder() as folder, serving(folder, desk=Desk(CONTROL, core.call)) as made:
        yield made


@pytest.fixture
def client(service: Service) -> Client:
    return service.control


def test_everything_that_the_client_asks_reaches_the_core(client: Client, core: FakeCore) -> None:
    assert client.sandbox("agent-1")["flows"]
    assert client.tree("/a/b c")["processes"][0]["command_line"] == "sh -c x"
    assert client.kill(11, "mining") == {"id": 11, "name": "agent-1", "killed": [7], "complete": True}
    assert client.kill(11, "mining", dry_run=True) == {"dry_run": True, "would": ["nothing"]}
    assert client.set_attributes("x", "told", {"team": "a"})["attributes"] == {"team": "a"}
    assert client.quarantines()[0]["id"] == client.quarantines(ended=True)[0]["id"] == "q1"
    assert client.quarantine("q1")["state"] == "held"
    assert client.add_quarantine("agent-1", "mining", ttl_seconds=60, on_expiry="kill", freeze=False)["id"] == "q1"
    assert client.release("q1", "over")["id"] == client.kill_quarantine("q1", "worse")["id"] == "q1"
    assert client.policy()["classes"] == {}
    assert client.explain("x", connect="1.2.3.4:22") == {"verdict": "allowed"}
    assert client.reload("new") == {"asked": True}
    assert (client.disarm("a")["armed"], client.arm("b")["armed"]) == (False, True)
    (detection,) = client.detections(sandbox="x", level="high", rule="R", limit=5)
    assert detection["acknowledged"] == {"reason": "seen"}
    assert client.detection("1f-a0/r")["acknowledged"] is None
    assert client.acknowledge("1f-a0/r", "seen")["id"] == "1f-a0/r"
    assert client.silences() == [{"id": "s1"}]
    assert client.silence("noise", 60, rule="R", **{"class": "c"}) == client.unsilence("s1", "over") == {"id": "s1"}
    assert client.top()["talkers"]
    assert client.recording()["running"] is client.begin_recording("why", seconds=5)["running"] is True
    assert client.end_recording("enough")["records"] == 1
    assert client.get("/v1/openapi.json")["info"]["title"] == "pinfold"
    assert core.of("tree")[0].ref == "/a/b c"
    assert [asked.all for asked in core.of("quarantines")] == ["0", "1"]
    added = core.of("quarantine_add")[0]
    assert (added.sandbox, added.ttl_seconds, added.on_expiry, added.freeze) == ("agent-1", 60, "kill", False)
    assert core.of("detection")[0].id == core.of("acknowledge")[0].id == "1f-a0/r"
    listed = core.of("detections")[0]
    assert (listed.sandbox, listed.level, listed.rule, listed.limit) == ("x", "high", "R", 5)
    assert core.of("silence_add")[0].class_ == "c"
    assert {name for name, _, _ in core.asked} == set(arguments.ALL) - {"resolve"}


def test_the_core_is_told_who_asks(client: Client, core: FakeCore) -> None:
    client.kill("x", "because")
    caller = core.asked[0][2]
    assert (caller.uid, caller.tgid, caller.allowed) == (os.geteuid(), os.getpid(), "change")
    assert caller.executable == os.path.realpath("/proc/self/exe")


def test_each_user_has_what_the_configuration_gives(service: Service, core: FakeCore) -> None:
    path = service.control_path
    kill = ("POST", "/v1/sandboxes/x/kill", json.dumps(WHY))
    assert ask(path, *kill, uid=STRANGER, groups=(GID,))[0] == "200"
    assert ask(path, *kill, uid=NOBODY, groups=(GID,))[0] == "200"
    assert [caller.allowed for _, _, caller in core.asked] == ["change", ("docker",)]
    status, body = ask(path, *kill, uid=STRANGER + 1, groups=(GID,))
    assert (status, json.loads(body)["code"]) == ("403", "denied")
    assert ask(path, "GET", "/v1/status", uid=STRANGER + 1, groups=(GID,))[0] == "200"
    assert os.stat(path).st_gid == os.stat(path.parent).st_gid == GID


def test_who_reached_the_socket_without_its_group_gets_nothing(service: Service) -> None:
    service.control_path.chmod(0o666)
    service.control_path.parent.chmod(0o755)
    assert ask(service.control_path, "GET", "/v1/status", uid=STRANGER + 1) == ("cut", "")
    assert service.api_count("pinfold_api_refused_total", "foreign") == 1
    assert service.asked["status"] == 0


@pytest.mark.parametrize(
    ("ref", "kind", "why"),
    [
        ("unknown", NotFoundError, "no sandbox unknown; there is agent-1"),
        ("twin", ClientError, "409: twin is the name of 2 sandboxes: 11 .a., 12 .b."),
        ("denied", DeniedError, "uid 7 may not"),
        ("busy", ClientError, "429: too many requests"),
        ("failing", ClientError, "500: the kernel refused: device or resource busy"),
        ("wrong", UsageError, r"what was meant\?"),
    ],
)
def test_what_the_core_refuses_is_refused_in_kind(client: Client, ref: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        client.kill(ref, "because")
    with pytest.raises(kind, match=why):
        client.sandbox(ref)


def test_a_core_that_breaks_says_so_and_lives(service: Service, core: FakeCore) -> None:
    def fail(_name: str) -> None:
        raise RuntimeError("a bug")

    core.before = fail
    with pytest.raises(ClientError, match="500: the core failed to answer"):
        service.control.kill("x", "because")
    assert service.said == ["no answer to kill: RuntimeError: a bug"]
    core.before = lambda _name: None
    assert service.control.kill("x", "because")["complete"]


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "why"),
    [
        ("POST", "/v1/disarm", b"", 400, "missing required field `reason`"),
        ("POST", "/v1/disarm", b'{"reason": "  "}', 400, "reason: expected one printable line that is not blank"),
        ("POST", "/v1/disarm", b'{"reason": "a\\nb"}', 400, "reason: expected one printable line"),
        ("POST", "/v1/disarm", b'{"reason": "\\u001b[2J"}', 400, "reason: expected one printable line"),
        ("POST", "/v1/disarm", b'{"reason": "%s"}' % (b"x" * 513), 400, "length <= 512"),
        ("POST", "/v1/disarm", b'{"reason": 5}', 400, "Expected `str`, got `int`"),
        ("POST", "/v1/disarm", b'{"reason": "a", "force": true}', 400, "unknown field `force`"),
        ("POST", "/v1/disarm", b'["reason"]', 400, "the body is no JSON object"),
        ("POST", "/v1/disarm", b"\xff\xfe", 400, "the body is no JSON"),
        ("POST", "/v1/disarm", b"[" * 60000, 400, "the body is no JSON"),
        ("POST", "/v1/disarm?reason=x", b"", 400, "in the body"),
        ("POST", "/v1/sandboxes/x/kill", b'{"reason": "a", "ref": "y"}', 400, "ref stands in the path already"),
        ("POST", "/v1/sandboxes/x/attributes", b'{"reason": "a", "attributes": {"a b": "c"}}', 400, "not allowed"),
        ("POST", "/v1/quarantines", b'{"sandbox": "x", "reason": "a", "ttl_seconds": -1}', 400, "`int` >= 0"),
        ("POST", "/v1/quarantines", b'{"sandbox": "x", "reason": "a", "on_expiry": "wait"}', 400, "Invalid enum value"),
        ("POST", "/v1/quarantines", b'{"sandbox": "", "reason": "a"}', 400, "length >= 1"),
        ("GET", "/v1/detections?limit=many", b"", 400, "Expected `int`"),
        ("GET", "/v1/detections?limit=1001", b"", 400, "<= 1000"),
        ("GET", "/v1/detections?limit=1&limit=2", b"", 400, "given twice"),
        ("GET", "/v1/status?x=1", b"", 400, "unknown field `x`"),
        ("GET", "/v1/sandboxes/", b"", 404, "Not Found"),
        ("DELETE", "/v1/silences/s1", b"", 400, "missing required field `reason`"),
        ("DELETE", "/v1/status", b"", 405, "Method Not Allowed"),
        ("GET", "/v1/disarm", b"", 405, "Method Not Allowed"),
        ("GET", "/v1/events/stream?level=loud", b"", 400, "Invalid enum value"),
        ("POST", "/v1/disarm", b'{"reason": "%s"}' % (b"x" * wire.MOST_BODY), 413, "Too Large"),
    ],
)
def test_what_is_asked_wrongly_never_reaches_the_core(
    service: Service, core: FakeCore, method: str, target: str, body: bytes, status: int, why: str
) -> None:
    found, answer = request(service, method, target, body)
    assert found == status
    assert why in answer["error"]
    assert answer["code"] == ("not_found" if status == 404 else "usage")
    assert core.asked == []


def request(service: Service, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
    connection = _Connection(str(service.control_path), PATIENCE_S)
    try:
        connection.request(method, target, body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_change_makes_the_api_forget_what_it_had_read(client: Client, core: FakeCore) -> None:
    for _ in range(3):
        client.sandbox("x")
    assert len(core.of("sandbox")) <= 2
    before = len(core.of("sandbox"))
    client.kill("x", "because")
    client.sandbox("x")
    assert len(core.of("sandbox")) == before + 1


def test_a_thousand_requests_of_one_connection_cost_the_core_few(service: Service, core: FakeCore) -> None:
    connection = _Connection(str(service.control_path), PATIENCE_S)
    began = time.monotonic()
    try:
        for _ in range(1000):
            connection.request("GET", "/v1/sandboxes/x")
            response = connection.getresponse()
            assert (response.status, bool(response.read())) == (200, True)
    finally:
        connection.close()
    assert len(core.of("sandbox")) <= 2 + (time.monotonic() - began) / 0.5
    assert len(service.link.admissions) <= 1


def test_who_changes_too_much_is_told_to_wait(client: Client) -> None:
    failed = ""
    for _ in range(200):
        try:
            client.kill("x", "because")
        except ClientError as error:
            failed = str(error)
            break
    assert "429: too many requests" in failed
    assert client.status(), "reading is another matter"


def test_a_silent_crowd_of_one_user_pushes_out_nobody_else(service: Service) -> None:
    """One that may read holds as many connections as it likes; another's is answered, and stays open."""
    kept = _Connection(str(service.control_path), PATIENCE_S)
    kept.request("GET", "/v1/status")
    assert kept.getresponse().read()
    with holding(service.control_path, STRANGER + 1, STRANGER + 1, (GID,), times=gate.MOST + 30):
        assert service.control.status()
        kept.request("GET", "/v1/status")
        assert kept.getresponse().status == 200
        deadline = time.monotonic() + PATIENCE_S
        while service.api_count("pinfold_api_refused_total", "busy") < gate.MOST + 30 - gate.MOST_OF_UID:
            assert time.monotonic() < deadline
    kept.close()


def test_a_user_who_connects_without_end_keeps_nobody_out(service: Service) -> None:
    with hammering(service.control_path, STRANGER + 1, (GID,)):
        until_busy = time.monotonic() + PATIENCE_S
        while not service.api_count("pinfold_api_refused_total", "busy"):
            assert time.monotonic() < until_busy
        for _ in range(20):
            assert service.control.status()


def test_a_connection_that_rests_is_closed_and_one_that_asks_is_not(service: Service) -> None:
    connection = _Connection(str(service.control_path), PATIENCE_S)
    for _ in range(3):
        connection.request("GET", "/v1/status")
        assert connection.getresponse().read()
    assert connection.sock is not None
    connection.sock.settimeout(gate.LIFE_S + PATIENCE_S)
    with contextlib.suppress(ConnectionResetError):
        assert connection.sock.recv(1) == b""
    connection.close()


def test_the_core_forgets_whom_the_api_has_let_go(service: Service) -> None:
    for _ in range(5):
        assert service.control.status()
    deadline = time.monotonic() + PATIENCE_S
    while len(service.link.admissions):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_half_a_request_is_not_waited_for_by_others(service: Service) -> None:
    halves = [_Connection(str(service.control_path), PATIENCE_S) for _ in range(10)]
    for half in halves:
        half.connect()
        assert half.sock is not None
        half.sock.sendall(b"POST /v1/disarm HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    assert service.control.status()
    for half in halves:
        half.close()


def test_the_api_cannot_make_up_a_caller(service: Service, core: FakeCore) -> None:
    """Packets as a captured api would send them: a number that the core never gave is nobody's."""
    service.control.status()
    service.pumping.clear()
    time.sleep(0.2)
    replies: list[int] = []
    link = service.link
    link._reply = lambda _link, _request, status, *_: replies.append(status)  # type: ignore[method-assign]
    for number in (0, 99, 0xFFFFFFFF):
        link._dispatch(None, 1, wire.CALL_WORD + wire.CALL.pack(number, b"disarm") + json.dumps(WHY).encode(), [])  # type: ignore[arg-type]
    for packet in (b"call ", b"call x", b"admit control", b"leave ", b"log ", b"\xff" * 100, b""):
        link._dispatch(None, 1, packet, [])  # type: ignore[arg-type]
    assert core.asked == []
    assert wire.OK not in replies
    assert replies[:3] == [wire.FIRST_CODE + wire.CODES.index("denied")] * 3
    service.pumping.set()


def test_a_client_that_is_refused_says_so(tmp_path: Path, core: FakeCore) -> None:
    with serving(tmp_path, lambda _tgid, _path: True, desk=Desk(CONTROL, core.call)) as service:
        with pytest.raises(DeniedError, match="refuses to answer this process"):
            service.control.kill("x", "because")
        assert core.asked == []
