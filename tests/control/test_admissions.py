"""Who the core says that a connection is from, and what that one may do. Real processes of other users: needs root."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sensor.configcontrol import Control, Launcher
from sensor.control import admissions
from sensor.control.admissions import FOREIGN, Admissions, Bucket
from sensor.control.caller import BusyError, Caller
from sensor.control.peers import SANDBOXED, UNVERIFIED
from sensor.errors import DeniedError
from tests.control.users import GID, NOBODY, STRANGER, holding

CONTROL = Control(uids=(STRANGER,), launchers=(Launcher(NOBODY, ("a/x-*",)),))


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as made:
        os.chmod(folder, 0o755)  # noqa: S103 - for users of ours
        made.bind(f"{folder}/s")
        os.chmod(f"{folder}/s", 0o777)  # noqa: S103
        made.listen(8)
        yield made


@contextmanager
def connected(
    listener: socket.socket, uid: int = 0, groups: tuple[int, ...] = ()
) -> Iterator[tuple[socket.socket, int]]:
    """The accepted connection, and the tgid at its other end."""
    with holding(listener.getsockname(), uid, uid, groups) as process:
        accepted, _ = listener.accept()
        with accepted:
            yield accepted, process.pid


def gate(sandboxed: Callable[[int, str], bool] = lambda _tgid, _path: False, control: Control = CONTROL) -> Admissions:
    return Admissions(control, GID, sandboxed, lambda path: path == "/in")


@pytest.mark.parametrize(
    ("uid", "groups", "allowed"),
    [
        (0, (), "change"),
        (STRANGER, (), "change"),
        (NOBODY, (), ("a/x-*",)),
        (STRANGER + 1, (GID,), "read"),
        (STRANGER + 1, (*range(70000, 70400), GID), "read"),  # more groups than getsockopt has room for
        (STRANGER + 1, (GID + 1,), ""),
    ],
)
def test_what_each_may_do(listener: socket.socket, uid: int, groups: tuple[int, ...], allowed: object) -> None:
    found = gate()
    with connected(listener, uid, groups) as (connection, tgid):
        answer = found.admit(connection.fileno(), control=True)
        if not allowed:
            assert (answer, len(found)) == (FOREIGN, 0)
            return
        caller = Caller(uid, tgid, os.path.realpath("/usr/bin/python3"), allowed)  # type: ignore[arg-type]
        assert answer == f"1 {uid} {caller.level}"
        assert found.caller(1, changes=False) == caller
        assert str(caller) == f"uid {uid}, pid {tgid}, {caller.executable}"


def test_who_asks_for_metrics_is_not_kept(listener: socket.socket) -> None:
    found = gate()
    with connected(listener, STRANGER + 1) as (connection, _):
        assert found.admit(connection.fileno(), control=False) == f"0 {STRANGER + 1} read"
        assert len(found) == 0


def test_an_admission_ends_with_its_process(listener: socket.socket) -> None:
    found = gate()
    with connected(listener) as (connection, tgid):
        found.admit(connection.fileno(), control=True)
        assert found.caller(1, changes=True).tgid == tgid
    with pytest.raises(DeniedError, match="not known any more"):
        found.caller(1, changes=False)
    assert len(found) == 0


def test_one_that_entered_a_sandbox_since_changes_nothing(listener: socket.socket) -> None:
    inside: list[bool] = []
    found = gate(lambda _tgid, _path: bool(inside))
    with connected(listener) as (connection, _):
        found.admit(connection.fileno(), control=True)
        inside.append(True)
        with pytest.raises(DeniedError, match="lives in a sandbox"):
            found.caller(1, changes=True)
        assert len(found) == 0


def test_a_number_that_was_never_given_is_nobody_s(listener: socket.socket) -> None:
    found = gate()
    for number in (0, 1, 0xFFFFFFFF):
        with pytest.raises(DeniedError):
            found.caller(number, changes=True)
    with connected(listener) as (connection, _):
        found.admit(connection.fileno(), control=True)
        found.leave(1)
        with pytest.raises(DeniedError):
            found.caller(1, changes=False)


def test_what_is_no_connection_is_unverified() -> None:
    found = gate()
    ours, theirs = os.pipe()
    with socket.socket() as tcp, tempfile.TemporaryFile() as file:
        for fd in (ours, tcp.fileno(), file.fileno()):
            assert found.admit(fd, control=True) == UNVERIFIED
    os.close(ours)
    os.close(theirs)


def test_a_sandboxed_one_is_refused_and_all_of_its_cgroup_where_that_is_the_sandbox_s(listener: socket.socket) -> None:
    with connected(listener) as (connection, _):
        assert gate(lambda _tgid, _path: True).admit(connection.fileno(), control=True) == SANDBOXED
        within = Admissions(CONTROL, GID, lambda _tgid, _path: True, lambda _path: True)
        assert within.admit(connection.fileno(), control=True) == f"{SANDBOXED} cgroup"


def test_a_reload_takes_effect_on_who_is_connected(listener: socket.socket) -> None:
    found = gate()
    with connected(listener, STRANGER, (GID,)) as (connection, _):
        found.admit(connection.fileno(), control=True)
        assert found.caller(1, changes=True).allowed == "change"
        found.control = Control()
        assert found.caller(1, changes=True).allowed == "read"


def test_who_asks_too_often_is_told_so_and_others_are_not(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions, "CHANGES_AT_ONCE", 3.0)
    monkeypatch.setattr(admissions, "CHANGES_PER_S", 0.001)
    found = gate()
    with connected(listener) as (root, _), connected(listener, STRANGER) as (other, _):
        found.admit(root.fileno(), control=True)
        found.admit(other.fileno(), control=True)
        for _ in range(3):
            found.caller(1, changes=True)
        with pytest.raises(BusyError, match="too many requests"):
            found.caller(1, changes=True)
        assert found.caller(1, changes=False)
        assert found.caller(2, changes=True)


def test_no_more_are_kept_than_the_bound(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions, "MOST", 3)
    found = gate()
    descriptors = len(os.listdir("/proc/self/fd"))
    with connected(listener) as (connection, _):
        for _ in range(10):
            found.admit(connection.fileno(), control=True)
        assert len(found) == 3
        assert found.caller(10, changes=False)
    found.clear()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_bucket_fills_up_again_and_not_beyond_its_size() -> None:
    bucket = Bucket(1_000_000.0, 2.0)
    threading.Event().wait(0.01)
    assert [bucket.take() for _ in range(2)] == [True, True]
    slow = Bucket(0.0, 2.0)
    assert [slow.take() for _ in range(3)] == [True, True, False]
