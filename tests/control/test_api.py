"""The api as a real process, asked over real sockets."""

from __future__ import annotations

import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sensor.control import gate, wire
from sensor.control.client import Client
from sensor.control.core import FRESH_S
from sensor.errors import ClientError, DeniedError, NotFoundError, UnreachableError
from tests.control.service import PATIENCE_S, Service, serving
from tests.respond.host import alive


def until(what: str, condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_metrics_are_what_the_core_counted(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        service.metrics.count("pinfold_events_total", ("process_creation",), 42)
        status, content_type, page = service.get()
        assert status == 200
        assert content_type.startswith("text/plain")
        families = {family.name: family for family in parse_text(page.decode())}
        counted = {sample.labels["category"]: sample.value for sample in families["pinfold_events"].samples}
        assert counted["process_creation"] == 42
        assert service.get(accept="application/openmetrics-text; version=1.0.0")[2].endswith(b"# EOF\n")
        assert b"pinfold_events_total" in service.control.metrics().encode()
        until("the api says that it serves", lambda: service.link.ready)


def test_metrics_alone_on_the_metrics_listener(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        for path in ("/v1/status", "/v1/sandboxes", "/", "/metrics/x"):
            status, _, body = service.get(path)
            assert (status, json.loads(body)) == (404, {"error": "Not Found", "code": "not_found"})


def test_the_control_socket_answers_json(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.control.status() == {"state": "watching"}
        assert service.control.sandboxes() == []


def test_metrics_on_a_unix_socket(tmp_path: Path) -> None:
    with serving(tmp_path, metrics_at=f"unix:{tmp_path}/metrics.sock") as service:
        client = Client(f"{tmp_path}/metrics.sock")
        assert "pinfold_sandboxes" in client.metrics()
        with pytest.raises(NotFoundError, match="Not Found"):
            client.status()
        assert service.port == 0


def test_a_core_that_cannot_answer_is_a_500_with_a_reason(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        with pytest.raises(ClientError, match="500: the core has no such thing"):
            service.control.rules()

        def fail() -> bytes:
            raise RuntimeError("a bug")

        service.answers["status"] = fail
        with pytest.raises(ClientError, match="500: the core failed to answer"):
            service.control.status()
        assert service.said == ["no answer to status: RuntimeError: a bug"]
        assert service.metrics.value("pinfold_events_lost_total", ("api", "unanswered")) == 1
        service.answers["metrics"] = lambda: b"no snapshot"
        assert service.get()[0] == 500


def test_a_core_that_is_busy_is_a_503_and_then_answers_again(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.get()[0] == 200
        service.pumping.clear()
        time.sleep(FRESH_S)
        status, _, body = service.get()
        assert (status, json.loads(body)) == (503, {"error": "the core does not answer", "code": "busy"})
        service.pumping.set()
        assert service.get()[0] == 200


def test_a_flood_of_requests_costs_the_core_little(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        began = time.monotonic()
        for _ in range(100):
            assert service.get()[0] == 200
        elapsed = time.monotonic() - began
        assert 1 <= service.asked["metrics"] <= 2 + elapsed / FRESH_S


def test_silent_peers_stall_nobody(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(gate.MOST + 20)]
        for peer in silent[:5]:
            peer.sendall(b"GET /metrics HTTP/1.1\r\nX-Slow: ")
        try:
            assert service.get()[0] == 200
            assert service.api_count("pinfold_api_refused_total", "busy") >= 20
            # The oldest made room: the kernel tells it by an end of file or a reset.
            silent[0].settimeout(PATIENCE_S)
            assert _cut(silent[0])
        finally:
            for peer in silent:
                peer.close()


def _cut(peer: socket.socket) -> bool:
    peer.settimeout(PATIENCE_S)
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00",
        b"\0" * 5000,
        b"GET /" + b"x" * 20000,
        b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n",
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET http://[::bad/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=x\r\n\r\n",
    ],
)
def test_garbage_is_answered_or_cut_and_harms_nothing(tmp_path: Path, garbage: bytes) -> None:
    with serving(tmp_path) as service:
        api = service.link.pid
        with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE_S) as peer:
            peer.sendall(garbage)
            peer.shutdown(socket.SHUT_WR)
            try:
                answer = peer.recv(65536)
            except ConnectionResetError:
                answer = b""
        assert not answer or answer.startswith(b"HTTP/")
        assert b"HTTP/1.1 500" not in answer
        assert service.get()[0] == 200
        assert service.link.pid == api


def test_a_peer_that_lives_in_a_sandbox_gets_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []

    def sandboxed(tgid: int, path: str) -> bool:
        seen.append((tgid, path))
        return True

    with serving(tmp_path, sandboxed) as service:
        with pytest.raises(DeniedError, match="refuses to answer this process"):
            service.control.status()
        assert seen[0][0] == os.getpid()
        assert seen[0][1].startswith("/")
        assert service.asked["status"] == 0
        # It looked once more whether anybody is there at all.
        assert service.api_count("pinfold_api_refused_total", "sandboxed") in {1, 2}


def test_a_peer_that_left_before_it_was_checked_is_refused(tmp_path: Path) -> None:
    """Its connection lives on in a child: the number alone would name whoever gets it next."""
    with serving(tmp_path) as service:
        service.pumping.clear()
        source = (
            "import os, socket, sys, time\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "if os.fork(): os._exit(0)\n"
            "s.sendall(b'GET /v1/status HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n"
            "print(len(s.recv(100)), flush=True)\n"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", source, str(service.control_path)], stdout=subprocess.PIPE, text=True
        )
        child.wait()
        service.pumping.set()
        output, _ = child.communicate(timeout=PATIENCE_S)
        assert output in {"0\n", ""}
        assert service.asked["status"] == 0
        until("it is counted", lambda: service.api_count("pinfold_api_refused_total", "unverified") == 1)


def test_an_api_that_dies_is_started_again(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.get()[0] == 200
        first = service.link.pid
        os.kill(first, signal.SIGKILL)
        until("another api runs", lambda: service.link.pid not in {0, first})
        assert service.get()[0] == 200
        assert service.metrics.value("pinfold_api_restarts_total") == 1
        assert service.said == ["the api process ended (signal 9); it is started again in 0.1 s"]


def test_an_api_that_is_stopped_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.get()[0] == 200
        first = service.link.pid
        os.kill(first, signal.SIGSTOP)
        until("another api runs", lambda: service.link.pid not in {0, first})
        assert service.get()[0] == 200
        assert service.said[0] == "the api process was stopped by a signal; it is ended, and started again"
        assert service.metrics.value("pinfold_api_restarts_total") == 1


def test_the_api_has_no_rights(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.get()[0] == 200
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{service.link.pid}/status").read_text().splitlines()
        )
        user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid()
        assert set(status["Uid"].split()) in ({str(user)}, {str(_pinfold_user())})
        assert status["NoNewPrivs"] == "1"
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        if os.geteuid() == 0:
            assert status["Groups"].strip() == ""
        # stdio, the link, two listeners, and the event loop's own three
        assert len(os.listdir(f"/proc/{service.link.pid}/fd")) <= 10


def _pinfold_user() -> int:
    try:
        return pwd.getpwnam("pinfold").pw_uid
    except KeyError:
        return -1


def test_the_api_dies_with_the_core(tmp_path: Path) -> None:
    source = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from tests.control.service import Service\n"
        "service = Service(Path(sys.argv[1]), lambda *_: False, '')\n"
        "service.control.status()\n"
        "print(service.link.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    core = subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert core.stdout is not None
    api = int(core.stdout.readline())
    assert alive(api)
    core.kill()
    core.wait()
    core.stdout.close()
    until("the api is gone", lambda: not alive(api))


def test_closing_ends_the_api_and_removes_the_socket(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.control.status()
        api = service.link.pid
    assert not alive(api)
    assert not service.control_path.exists()
    with pytest.raises(UnreachableError, match="no daemon runs here"):
        service.control.status()


def test_the_client_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    with pytest.raises(UnreachableError, match="the daemon has ended"):
        Client(str(path)).status()
    left.listen(1)
    with pytest.raises(UnreachableError, match=r"does not answer within 0\.05 s"):
        Client(str(path), timeout=0.05).status()
    left.close()


def test_an_api_that_does_not_read_never_blocks_the_core(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert _asks_without_reading(service) > 0
        assert service.get()[0] == 200


def _asks_without_reading(service: Service) -> float:
    """Packets as a broken api would send them, to the core's own handling of them."""
    service.pumping.clear()
    time.sleep(0.2)  # the loop's select is over
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    mine.setblocking(False)
    with mine, its:
        for request in range(1, 40):
            its.send(wire.REQUEST.pack(request) + b"status")
            assert service.link._answer_one(mine)
        assert not service.link._answer_one(mine)
    service.pumping.set()
    return service.metrics.value("pinfold_events_lost_total", ("api", "not_read"))
