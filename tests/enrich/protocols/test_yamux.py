from __future__ import annotations

import struct

import pytest
from hypothesis import given

from sensor.enrich.protocols.yamux import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound


def frame(kind: int, flags: int, stream: int, length: int, content: bytes = b"") -> bytes:
    return struct.pack("!BBHII", 0, kind, flags, stream, length) + content


OPEN = frame(1, 1, 1, 0)
TALK = OPEN + frame(0, 0, 1, 5, b"hello") + frame(2, 1, 0, 0)
DATA = frame(0, 1, 7, 4, b"data")
SAMPLES = (OPEN, TALK, DATA + frame(0, 0, 7, 2, b"xy"), frame(2, 1, 0, 3), frame(1, 2, 1, 262144))


@pytest.mark.parametrize(
    ("data", "role", "kind", "certain"),
    [
        (OPEN, "client", "window", True),
        (frame(1, 1, 2, 0), "server", "window", True),
        (frame(1, 2, 1, 0), "server", "window", False),
        (frame(2, 1, 0, 9), "", "ping", True),
        (DATA, "client", "data", False),
        (DATA + frame(0, 0, 7, 9), "client", "data", True),
        (DATA + b"\0\7" + bytes(10), "client", "data", False),
        (frame(3, 0, 0, 1), "", "go_away", False),
    ],
)
def test_frames(data: bytes, role: str, kind: str, certain: bool) -> None:
    found = dissect(data, False)
    assert found is not None
    assert (found.protocol, found.role, found.kind, found.certain) == ("yamux", role, kind, certain)


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, "yamux")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        bytes(12),
        bytes(64),
        frame(0, 0x10, 1, 1),
        frame(0, 0, 0, 4),
        frame(0, 1, 1, 1 << 31),
        frame(1, 0, 1, 0),  # no stream is open yet
        frame(1, 1, 1 << 20, 0),
        frame(4, 1, 1, 0),
        frame(2, 0, 0, 0),
        frame(3, 0, 0, 9),
        b"\1" + OPEN[1:],
        b"\0\0\0\x08\x04\xd2\x16\x2f" + bytes(8),  # PostgreSQL asks for TLS
        b"\0\0\0\x25\0\3\0\0user\0postgres\0database\0x\0\0",
        b"\0\0\0\4\0\0\0\0\0\0\0\0\4\1\0\0\0\0",  # HTTP/2 SETTINGS of a server
        b"\0\0\x12\4\0\0\0\0\0" + bytes(18),
        b"\0\0\0\x2a\0\x12\0\3\0\0\0\1\0\x0cconsumer",  # Kafka
        b"\0\0\0\x54\xfeSMB\x40\0\0\0",
        b"\0\x1d\x12\x34\1\0\0\1\0\0\0\0\0\0\3www",  # DNS over TCP
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_not_over_udp() -> None:
    assert dissect(TALK, True) is None


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "yamux")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "yamux")
