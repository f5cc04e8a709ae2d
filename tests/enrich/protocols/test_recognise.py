"""Every protocol's first bytes are taken for what they are, at every length, among all other dissectors."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols.recognise import recognise, recognise_pair
from sensor.enrich.protocols.result import Found
from tests.enrich.protocols.checks import mutated
from tests.fuzz import build
from tests.fuzz.checks import checked
from tests.fuzz.samples import ALL, Sample

# A shorter part of the first may be taken for the second. What HTTP carries shows in its headers or its body only;
# until then it is HTTP, which is true.
MEANWHILE = {
    "chisel": "http",
    "wstunnel": "http",
    "devtunnels": "http",
    "getblocktemplate": "http",
}


@pytest.mark.parametrize("sample", ALL, ids=lambda sample: sample.name)
def test_each_is_recognised_as_itself_at_every_length(sample: Sample) -> None:
    whole = checked(recognise(sample.data, sample.udp))
    assert whole is not None and whole.protocol == sample.protocol
    for size in range(len(sample.data)):
        found = checked(recognise(sample.data[:size], sample.udp))
        if found is not None and found.protocol != sample.protocol:
            assert found.protocol == MEANWHILE.get(sample.protocol), (size, sample.data[:size])


def protocols(*streams: bytes) -> list[str]:
    return [found.protocol if (found := recognise(data, False)) else "" for data in streams]


def test_the_more_specific_wins_over_http() -> None:
    call = b'POST / HTTP/1.1\r\nHost: node:8332\r\n\r\n{"id":1,"method":"%s","params":[]}'
    assert protocols(call % b"getblocktemplate", call % b"getbalance") == ["getblocktemplate", "http"]
    upgrade = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: %s\r\n\r\n"
    assert protocols(upgrade % b"chisel-v3", upgrade % b"graphql-ws") == ["chisel", "http"]


def test_json_lines_are_told_apart() -> None:
    lines = b'{"id":1,"method":"mining.subscribe","params":[]}\n', b'{"Hello":0}\0', b'{"method":"ping"}\n'
    assert protocols(*lines) == ["stratum", "bore", ""]


def test_the_byte_before_a_hello_is_frps_and_a_record_is_tls() -> None:
    hello = build.record(build.browser())
    assert protocols(b"\x17" + hello, b"\x17\x03\x03\x00\x20" + bytes(32), hello) == ["frp", "tls", "tls"]


def test_dns_over_tcp_is_not_socks() -> None:
    """A message of 0x0401 or 0x0501 bytes begins as SOCKS 4 and 5 do."""
    answer = b"\x12\x34\x81\x80\0\1\0\x40\0\0\0\0\3www\7example\3com\0\0\1\0\1"
    records = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\1\2\3\4" * 64
    for size in (0x0401, 0x0402, 0x0501):
        assert protocols(size.to_bytes(2) + answer + records) == ["dns"]


def test_a_banner_quoted_in_a_shell_is_the_shells() -> None:
    assert protocols(b"root@box:/# nc git 22\nSSH-2.0-OpenSSH_9.2p1\n") == ["shell"]


def test_tor_is_told_by_name() -> None:
    name = [build.server_name(b"www.x3vqkz7wmtb5fpdu.com"), build.versions(0x0304)]
    found = recognise(build.record(build.message(name)), False)
    assert found is not None and (found.protocol, found.dialect, found.certain) == ("tls", "tor-like", False)
    found = recognise(build.record(build.message([*name, build.alpn(b"h2")])), False)
    assert found is not None and (found.protocol, found.dialect, found.certain) == ("tls", "", True)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"*1\r\n$4\r\nPING\r\n",  # Redis
        b"+PONG\r\n",
        b"220 mail.example.org ESMTP Postfix\r\n",
        b"EHLO client.example.org\r\n",
        b"* OK [CAPABILITY IMAP4rev1] ready\r\n",
        b"\x4a\0\0\0\x0a8.0.36\0" + bytes(60),  # MySQL
        b"\0\0\0\x25\0\3\0\0user\0postgres\0\0",
        b"\x10\x20\0\4MQTT\4\2\0\x3c" + bytes(20),
        b"AMQP\0\0\x09\x01",
        b"\x3a\0\0\0\1\0\0\0\0\0\0\0\xd4\x07\0\0" + bytes(40),  # MongoDB
        b"CNXN\0\0\0\1",
        b'INFO {"server_id":"x","version":"2.10.7"}\r\n',  # NATS
        b"hello world\n",
        b"2026-11-29 12:00:00 INFO started\n",
        b"\x13BitTorrent protocol" + bytes(48),
        b"\x7fELF\x02\x01\x01" + bytes(60),
        b"\x1f\x8b\x08\0\0\0\0\0\0\3" + bytes(60),
        b"\x89PNG\r\n\x1a\n" + bytes(60),
    ],
)
def test_what_no_dissector_knows_stays_unknown(data: bytes) -> None:
    assert recognise(data, False) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x24\x02\x06\xec" + bytes(44),  # NTP
        b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12),  # STUN
        b"\x16\xfe\xff\0\0\0\0\0\0\0\0" + bytes(60),  # DTLS
        b"<14>Nov 29 12:00:00 host app: hello",
        b"\x01\x01\x06\0" + bytes(236),  # DHCP
        b"sensor.temp:21|g",
    ],
)
def test_datagrams_that_no_dissector_knows(data: bytes) -> None:
    assert recognise(data, True) is None


def test_random_bytes_are_hardly_ever_certain() -> None:
    source = random.Random(11)  # noqa: S311
    found: list[Found | None] = []
    for _ in range(20_000):
        data = source.randbytes(source.choice([12, 64, 200, 600]))
        found += [recognise(data, False), recognise(data, True)]
    assert sum(1 for one in found if one is not None and one.certain) <= 2
    assert sum(1 for one in found if one is not None) <= 20


def test_a_pair_is_stratum_2_by_its_lengths() -> None:
    source = random.Random(12)  # noqa: S311
    client, server = source.randbytes(64), source.randbytes(170)
    found = recognise_pair(client, server)
    assert found is not None and (found.protocol, found.certain) == ("stratum2", False)
    assert recognise_pair(client[:63], server) is None
    assert recognise_pair(b"", b"") is None


@given(st.binary(max_size=4200), st.booleans())
def test_noise(data: bytes, udp: bool) -> None:
    checked(recognise(data, udp))
    checked(recognise_pair(data[:64], data[64:234]))


@given(mutated([sample.data for sample in ALL]), st.booleans(), st.integers(0, 2000))
def test_mutations(data: bytes, udp: bool, size: int) -> None:
    checked(recognise(data, udp))
    checked(recognise(data[:size], udp))
