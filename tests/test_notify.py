"""What a supervisor hears, by its own socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.notify import Notifier

NAMES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["path", "abstract"])
def supervisor(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """systemd gives either."""
    name = f"@pinfold-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name[1:] if name.startswith("@") else name)
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listening


def heard(supervisor: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(supervisor.recv(4096))
        except BlockingIOError:
            return found


def test_lines_come_as_one_message(supervisor: socket.socket) -> None:
    notifier = Notifier()
    notifier.send("READY=1", "STATUS=3 sandboxes")
    assert heard(supervisor) == [b"READY=1\nSTATUS=3 sandboxes"]
    assert notifier.failures == 0


def test_without_a_supervisor_nothing_happens() -> None:
    notifier = Notifier()
    notifier.send("READY=1")
    notifier.feed()
    assert (notifier.failures, notifier.interval_s) == (0, 0.0)


def test_one_that_is_gone_is_counted_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    notifier = Notifier()
    notifier.send("READY=1")
    assert notifier.failures == 1


def test_one_that_does_not_read_does_not_hold_the_loop(supervisor: socket.socket) -> None:
    notifier = Notifier()
    for _ in range(10_000):
        notifier.send("STATUS=" + "x" * 100)
        if notifier.failures:
            break
    assert notifier.failures == 1
    heard(supervisor)
    notifier.send("READY=1")
    assert heard(supervisor) == [b"READY=1"]


def test_the_watchdog_is_fed_at_half_its_interval(supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier()
    assert notifier.interval_s == 5.0
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    fed = []
    for second in range(13):
        now = 1000.0 + second
        notifier.feed()
        fed += [second] * len(heard(supervisor))
    assert fed == [0, 5, 10]


@pytest.mark.parametrize(
    ("usec", "pid"), [("0", None), ("", None), ("soon", None), ("-5", None), ("10000000", "1"), ("10000000", "x")]
)
def test_a_watchdog_that_is_not_ours_is_not_fed(
    supervisor: socket.socket, monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    notifier = Notifier()
    notifier.feed()
    assert heard(supervisor) == []
