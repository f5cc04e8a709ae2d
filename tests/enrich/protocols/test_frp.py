from __future__ import annotations

import json

import pytest
from hypothesis import given

from sensor.enrich.protocols.frp import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound


def message(kind: bytes, members: dict[str, object]) -> bytes:
    body = json.dumps(members, separators=(",", ":")).encode()
    return kind + len(body).to_bytes(8, "big") + body


LOGIN = message(
    b"o",
    {
        "version": "0.58.1",
        "hostname": "box",
        "os": "linux",
        "arch": "amd64",
        "user": "alice",
        "privilege_key": "0123456789abcdef0123456789abcdef",
        "timestamp": 1700000000,
        "pool_count": 1,
    },
)
WORK = message(b"w", {"run_id": "b1946ac92492d234", "privilege_key": "01234567", "timestamp": 1700000000})
ANSWER = message(b"1", {"version": "0.58.1", "run_id": "b1946ac92492d234"})
TLS = b"\x17\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(32))
SAMPLES = (LOGIN, WORK, ANSWER, TLS)


def test_a_login() -> None:
    found = dissect(LOGIN, False)
    assert found is not None and found.certain
    assert (found.protocol, found.role, found.method, found.version) == ("frp", "client", "login", "0.58.1")
    assert found.user == "alice" and "0123456789" not in repr(found)


def test_tls_behind_its_byte() -> None:
    found, little = dissect(TLS, False), dissect(TLS[:5], False)
    assert found is not None and (found.kind, found.certain) == ("handshake", True)
    assert little is not None and not little.certain


def test_other_messages() -> None:
    work, answer = dissect(WORK, False), dissect(ANSWER, False)
    assert work is not None and (work.role, work.method) == ("client", "work_conn")
    assert answer is not None and (answer.role, answer.version) == ("server", "0.58.1")


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    for found in at_every_length(dissect, sample, False, "frp"):
        assert found is None or found.version in ("", "0.58.1")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\x17\x03\x03\x00\x20" + bytes(32),  # TLS application data
        TLS[1:],
        TLS[:6] + b"\2" + TLS[7:],  # not a client's hello
        message(b"o", {"a": 1}),
        b"o" + bytes(8) + LOGIN[9:],  # length 0
        b"o" + (10241).to_bytes(8, "big") + LOGIN[9:],
        b"o" + b"\xff" * 8 + LOGIN[9:],
        b"ok\r\n" + bytes(20),
        b"w" + bytes(30),
        b"version of 1.0 is out",
        message(b"x", {"version": "1"}),
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_not_over_udp() -> None:
    assert dissect(LOGIN, True) is None


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "frp")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "frp")
