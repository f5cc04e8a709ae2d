from __future__ import annotations

import pytest
from hypothesis import given

from sensor.enrich.protocols.bore import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound

UUID = b"67e55044-10b1-426f-9247-bb680e5fe0c8"
HELLO = b'{"Hello":8080}\0'
CHALLENGE = b'{"Challenge":"' + UUID + b'"}\0'
ACCEPT = b'{"Accept":"' + UUID + b'"}\0SSH-2.0-OpenSSH_9.2\r\n'
SECRET = b'{"Authenticate":"' + b"0123456789abcdef" * 4 + b'"}\0'
SAMPLES = (HELLO, CHALLENGE, ACCEPT, SECRET, b'{"Hello":0}\0', b'{"Connection":"' + UUID + b'"}\0')


@pytest.mark.parametrize(
    ("data", "role", "method"),
    [
        (HELLO, "", "Hello"),
        (CHALLENGE, "server", "Challenge"),
        (ACCEPT, "client", "Accept"),
        (SECRET, "client", "Authenticate"),
        (SAMPLES[5], "server", "Connection"),
    ],
)
def test_messages(data: bytes, role: str, method: str) -> None:
    found = dissect(data, False)
    assert found is not None and found.certain
    assert (found.protocol, found.role, found.kind, found.method) == ("bore", role, "greeting", method)
    assert "0123456789" not in repr(found)


def test_without_its_end_it_is_not_certain() -> None:
    found = dissect(HELLO[:-1], False)
    assert found is not None and not found.certain


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, "bore")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b'{"Hello":"world"}',
        b'{"Hello":123456}\0',
        b'{"Hello":}\0',
        b'{"Hello":8080\0',
        b'{"Hello":8080,"x":1}\0',
        b'{"Hello":8080}\n',
        b'{"Accept":"text/html"}',
        b'{"Accept":"' + UUID + b'x"}\0',
        b'{"Connection":"keep-alive"}\0',
        b'{"Authenticate":"me"}\0',
        b'{"Authenticate":""}\0',
        b'{"hello":1}\0',
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_not_over_udp() -> None:
    assert dissect(HELLO, True) is None


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "bore")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "bore")
