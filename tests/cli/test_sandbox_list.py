from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from sensor.cli import main
from sensor.control.listeners import CONTROL_SOCKET


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"paths: {{runtime: {tmp_path}}}\n")
    return str(path)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[bytes], None]]:
    """Answers each request on the control socket with this body."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / CONTROL_SOCKET))
    listener.listen()
    threads = []

    def start(body: bytes) -> None:
        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                assert b"GET /v1/sandboxes " in connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        threads.append(threading.Thread(target=answer, daemon=True))
        threads[-1].start()

    yield start
    listener.close()
    for thread in threads:
        thread.join(10)


ONE = {
    "id": 4242,
    "name": "agent-1\x1b[2J",
    "class": "default",
    "runtime": None,
    "path": "[b]/x",
    "processes": 3,
    "lost": {"budget": 2},
    "tamperable": True,
}


def test_sandboxes_are_a_table(
    config: str, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    serve(orjson.dumps([ONE]))
    assert main(["sandbox", "list", "--config", config]) == 0
    heading, _, row = capsys.readouterr().out.splitlines()
    assert heading.split() == ["Name", "Class", "Runtime", "Path", "Processes", "Lost", "Tamperable"]
    assert row.split() == ["agent-1\\x1b[2J", "default", "[b]/x", "3", "budget", "2", "yes"]


def test_sandboxes_are_json_a_line(
    config: str, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(orjson.dumps({"sandboxes": [ONE, ONE]}))
    assert main(["sandbox", "list", "--config", config, "-o", "json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [orjson.loads(line) for line in lines] == [ONE, ONE]
    assert all(line.isprintable() for line in lines)


def test_no_sandboxes_is_no_table(
    config: str, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str]
) -> None:
    serve(b"[]")
    assert main(["sandbox", "list", "--config", config]) == 0
    assert capsys.readouterr() == ("", "no sandboxes\n")


@pytest.mark.parametrize("body", [b"5", b"[1]", b'{"error": []}', b"{"])
def test_another_answer_is_one_line_and_1(
    config: str, serve: Callable[[bytes], None], capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    serve(body)
    assert main(["sandbox", "list", "--config", config]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("pinfold: ")


def test_no_sensor_is_one_line_and_5(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "list", "--config", config]) == 5
    assert "no daemon runs here" in capsys.readouterr().err
