from __future__ import annotations

import subprocess

import pytest
from hypothesis import given

from sensor.enrich.protocols.socks import dissect
from tests.enrich.protocols.checks import ANY, at_every_length, first_bytes, mutated, sound
from tests.packaging.tools import tool

FOUR = b"\4\1\x01\xbb\x5d\xb8\xd8\x22root\0"
FOUR_A = b"\4\1\x00\x50\0\0\0\1\0evil.example\0"
GREETING = b"\5\3\0\1\2"
TO_IPV4 = b"\5\1\0\1\x0a\0\0\1\x00\x16"
TO_NAME = b"\5\1\0\3\x0cevil.example\x01\xbb"
TO_IPV6 = b"\5\1\0\4" + bytes(15) + b"\1\x1f\x90"
PASSWORD = b"\1\4user\6geheim"
WHOLE = GREETING + PASSWORD + TO_NAME + b"GET / HTTP/1.1\r\n"
ANSWER = b"\5\0\5\0\0\1\x7f\0\0\1\x1f\x90SSH-2.0-x\r\n"
SAMPLES = (FOUR, FOUR_A, GREETING, b"\5\1\0" + TO_IPV4, b"\5\1\0" + TO_IPV6, WHOLE, ANSWER, TO_NAME)


@pytest.mark.parametrize(
    ("data", "version", "method", "target"),
    [
        (FOUR, "4", "CONNECT", "93.184.216.34:443"),
        (FOUR_A, "4a", "CONNECT", "evil.example:80"),
        (b"\4\2" + FOUR[2:], "4", "BIND", "93.184.216.34:443"),
        (TO_NAME, "5", "CONNECT", "evil.example:443"),
        (b"\5\1\0" + TO_IPV4 + b"SSH-2.0-", "5", "CONNECT", "10.0.0.1:22"),
        (b"\5\1\0" + TO_IPV6, "5", "CONNECT", "[::1]:8080"),
        (b"\5\1\0\5\3\0\1\0\0\0\0\0\0", "5", "ASSOCIATE", "0.0.0.0:0"),
        (WHOLE, "5", "CONNECT", "evil.example:443"),
    ],
)
def test_requests(data: bytes, version: str, method: str, target: str) -> None:
    found = dissect(data, False)
    assert found is not None and found.certain
    assert (found.protocol, found.role, found.kind) == ("socks", "client", "request")
    assert (found.version, found.method, found.target) == (version, method, target)


def test_a_password_is_not_read() -> None:
    for size in range(len(WHOLE) + 1):
        assert "geheim" not in repr(dissect(WHOLE[:size], False))


def test_a_greeting_is_certain_when_its_length_is_right() -> None:
    exact, cut = dissect(b"\5\1\0", False), dissect(b"\5\3\0", False)
    assert exact is not None and (exact.kind, exact.certain) == ("greeting", True)
    assert cut is not None and (cut.kind, cut.certain) == ("greeting", False)


def test_two_bytes_are_never_certain() -> None:
    chosen, either = dissect(b"\5\0", False), dissect(b"\5\2", False)
    assert chosen is not None and (chosen.role, chosen.kind, chosen.certain) == ("server", "response", False)
    assert either is not None and (either.role, either.certain) == ("", False)


def test_answers() -> None:
    five, four = dissect(ANSWER, False), dissect(b"\0\x5a\0\x50\x01\x02\x03\x04", False)
    assert five is not None and (five.role, five.kind, five.certain) == ("server", "response", True)
    assert four is not None and (four.role, four.version, four.certain) == ("server", "4", False)


@pytest.mark.parametrize("sample", SAMPLES)
def test_cut_anywhere(sample: bytes) -> None:
    at_every_length(dissect, sample, False, "socks")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\5",
        b"\5\1\0GET / HTTP/1.1",  # what follows the greeting is not of SOCKS
        b"\5\2\0\0",  # the same method twice
        b"\5\1\xff",
        b"\5\x0b" + bytes(range(11)),
        b"\5\xff" + bytes(range(100)),
        b"\5\4\0\1\2\4",
        b"\5\1\0\2\0\0\0\0\0\0",  # an address type that there is not
        TO_NAME + b"more",  # alone, and yet more: a binary protocol that begins so
        b"\4\0\0\0" + bytes(60),  # WireGuard's data
        b"\4\1\0\0\x7f\0\0\1\0",  # port 0
        b"\4\1\x00\x50\0\0\0\0\0",  # address 0.0.0.0
        b"\4\1\x00\x50\x01\2\3\4\xff\xfe\0",
        b"\4\1\x00\x50\0\0\0\1\0\0",  # 4a without a name
        b"\0\x5a\0\x50\x01\x02\x03\x04more",
        b"\0\x5e\0\x50\x01\x02\x03\x04",
        b"\5\0\0\1",
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, False) is None


def test_lengths_that_lie() -> None:
    longer, zero = dissect(b"\5\1\0\5\1\0\3\xffabc", False), dissect(b"\5\1\0\5\1\0\3\0\0\x50", False)
    assert longer is not None and (longer.target, longer.certain) == ("", False)
    assert zero is None
    assert dissect(b"\4\1\x00\x50\1\2\3\4" + b"u" * 4000, False) is None


def test_not_over_udp() -> None:
    assert dissect(WHOLE, True) is None


@pytest.mark.parametrize(
    ("option", "answers", "version"),
    [("--socks5-hostname", [b"\5\0"], "5"), ("--socks4a", [], "4a")],
)
def test_of_curl(option: str, answers: list[bytes], version: str) -> None:
    curl = tool("curl")

    def act(port: int) -> None:
        command = [curl, "-s", "-m", "10", option, f"127.0.0.1:{port}", "http://inner.example:8080/"]
        subprocess.run(command, check=False, capture_output=True)

    found = dissect(first_bytes(act, answers), False)
    assert found is not None
    assert (found.version, found.method, found.target) == (version, "CONNECT", "inner.example:8080")


@given(ANY)
def test_any_bytes(data: bytes) -> None:
    sound(dissect(data, False), "socks")


@given(mutated(SAMPLES))
def test_mutations(data: bytes) -> None:
    sound(dissect(data, False), "socks")
