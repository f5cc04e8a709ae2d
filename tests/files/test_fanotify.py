"""The kernel's bytes, whole, cut and impossible."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.files import fanotify
from tests.files.events import DFID_NAME, FID, NEW, OLD, info, key, pidfd, raw


def test_an_event_names_the_object_and_its_place() -> None:
    data = raw(0x108, info(DFID_NAME, 1, b"a"), info(FID, 2))
    assert list(fanotify.events(data)) == [fanotify.Event(0x108, 100, key(2), (key(1), b"a"), None, None)]


def test_a_rename_names_both_places_or_the_one_that_is_marked() -> None:
    both = raw(fanotify.RENAME, info(OLD, 1, b"a"), info(NEW, 3, b"b"), info(FID, 2))
    one = raw(fanotify.RENAME, info(OLD, 1, b"a"), info(FID, 2))
    first, second = fanotify.events(both + one)
    assert (first.old, first.new) == ((key(1), b"a"), (key(3), b"b"))
    assert (second.old, second.new) == ((key(1), b"a"), None)


def test_an_overflow_names_nothing() -> None:
    assert list(fanotify.events(raw(fanotify.OVERFLOW, tgid=0))) == [
        fanotify.Event(fanotify.OVERFLOW, 0, b"", None, None, None)
    ]


def test_whether_whoever_did_it_is_still_there() -> None:
    data = b"".join(raw(0x108, info(DFID_NAME, 1, b"a"), pidfd(number)) for number in (7, -1, -2))
    assert [(event.pidfd, event.gone) for event in fanotify.events(data)] == [(7, False), (-1, True), (-2, False)]


def test_its_descriptors_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(2)]
    data = b"".join(raw(0x108, info(DFID_NAME, 1, b"a"), pidfd(number)) for number in (*held, -1, -2))
    monkeypatch.setattr(os, "read", lambda *_: data)
    assert len(fanotify.read(-1)) == 4
    for number in held:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    list(fanotify.events(data))


@given(st.integers(0, 120), st.binary(min_size=1, max_size=8))
def test_a_damaged_event_ends_the_reading(at: int, damage: bytes) -> None:
    data = raw(0x108, info(DFID_NAME, 1, b"a name of some length"), info(FID, 2)) * 2
    list(fanotify.events(data[:at] + damage + data[at + len(damage) :]))
