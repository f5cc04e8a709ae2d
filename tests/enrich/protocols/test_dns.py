from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols import dns
from sensor.enrich.protocols.dns import Message, addresses_of, dissect, parse
from sensor.enrich.protocols.result import TEXT_MAX
from tests.enrich.protocols.checks import ANY, at_every_length, mutated, sound

A, NS, CNAME, NULL, PTR, MX, TXT, AAAA = 1, 2, 5, 10, 12, 15, 16, 28


def name(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".") if label) + b"\0"


def question(text: str, kind: int = A, class_: int = 1) -> bytes:
    return name(text) + struct.pack("!HH", kind, class_)


def record(owner: str | bytes, kind: int, ttl: int, content: bytes, class_: int = 1) -> bytes:
    owned = name(owner) if isinstance(owner, str) else owner
    return owned + struct.pack("!HHIH", kind, class_, ttl, len(content)) + content


def message(questions: list[bytes], answers: list[bytes] = [], flags: int = 0x100, number: int = 7) -> bytes:  # noqa: B006
    head = struct.pack("!6H", number, flags, len(questions), len(answers), 0, 0)
    return head + b"".join(questions) + b"".join(answers)


ANSWERS = 0x8180
# As glibc sends it, with EDNS.
QUERY = bytes.fromhex("4d2b0120000100000000000103777777076578616d706c6503636f6d00000100010000290200000000000000")
# As dig shows it, with compression: www.example.com → a CNAME → two addresses.
CHAIN = message(
    [question("WWW.Example.com")],
    [
        record(b"\xc0\x0c", CNAME, 300, b"\4edge\3cdn\3net\0"),
        record("edge.cdn.net", A, 60, b"\x5d\xb8\xd8\x22"),
        record("edge.cdn.net", AAAA, 3600, bytes(15) + b"\1"),
    ],
    ANSWERS,
)
MDNS = message([], [record("printer.local", A, 120, b"\x0a\0\0\x09", 0x8001)], 0x8400, 0)
SAMPLES = (QUERY, CHAIN, MDNS)


def over_tcp(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def parsed(data: bytes, udp: bool = True) -> Message:
    found = parse(data, udp)
    assert found is not None
    return found


def test_a_query() -> None:
    found = dissect(QUERY, True)
    assert found is not None
    assert (found.protocol, found.role, found.kind) == ("dns", "client", "query")
    assert (found.server_name, found.method) == ("www.example.com", "A")
    assert dissect(b"\x01\x02" + QUERY[2:], True) == found == dissect(over_tcp(QUERY), False)


def test_an_answer_in_whole() -> None:
    found = parsed(CHAIN)
    assert (found.id, found.response, found.opcode, found.rcode, found.cut) == (7, True, 0, 0, False)
    assert found.recursion_desired and not found.truncated and not found.authoritative
    assert found.questions[0].name == "www.example.com" and found.questions[0].class_ == 1
    assert [(answer.name, answer.type, answer.ttl, answer.data, answer.size) for answer in found.answers] == [
        ("www.example.com", "CNAME", 300, "edge.cdn.net", 14),
        ("edge.cdn.net", "A", 60, "93.184.216.34", 4),
        ("edge.cdn.net", "AAAA", 3600, "::1", 16),
    ]
    assert found.wire_size == len(CHAIN)
    assert parse(over_tcp(CHAIN) + over_tcp(QUERY), False) == found


def test_addresses_follow_aliases_and_the_shortest_time() -> None:
    assert addresses_of(parsed(CHAIN)) == [
        ("www.example.com", "93.184.216.34", 60),
        ("www.example.com", "::1", 300),
    ]


def test_addresses_that_nobody_asked_for_are_left_out() -> None:
    poisoned = message(
        [question("evil.example")],
        [
            record("evil.example", A, 9, b"\1\2\3\4"),
            record("index.test", A, 9, b"\6\6\6\6"),
            record("other.example", CNAME, 9, name("index.test")),
        ],
        ANSWERS,
    )
    assert addresses_of(parsed(poisoned)) == [("evil.example", "1.2.3.4", 9)]


def test_aliases_in_a_circle_end() -> None:
    circle = [
        record("a.example", CNAME, 5, name("b.example")),
        record("b.example", CNAME, 4, name("a.example")),
        record("b.example", A, 9, b"\1\2\3\4"),
    ]
    assert addresses_of(parsed(message([question("a.example")], circle, ANSWERS))) == [("a.example", "1.2.3.4", 5)]
    assert addresses_of(parsed(QUERY)) == []


def test_other_records() -> None:
    records = [
        record("x", TXT, 1, b"\5hello\6 world"),
        record("x", TXT, 1, b"\3\0\1\2"),
        record("x", NULL, 1, bytes(range(200))),
        record("x", MX, 1, b"\0\x0a" + name("mail.example")),
        record("x", PTR, 1, b"\xc0\x0c"),
        record("x", A, 1, b"\1\2\3"),
        record("x", 65280, 1 << 31, b"abc"),
        record("x", TXT, 1, (b"\xff" + b"t" * 255) * 8),
    ]
    answers = parsed(message([question("x")], records, ANSWERS)).answers
    assert [answer.data for answer in answers[:2]] == ["hello world", "000102"]
    assert answers[2].data == bytes(range(128)).hex() and answers[2].size == 200
    assert [answer.data for answer in answers[3:6]] == ["mail.example", "x", "010203"]
    assert (answers[6].type, answers[6].ttl, answers[6].data) == ("TYPE65280", 0, "abc")
    assert answers[7].data == "t" * TEXT_MAX and answers[7].size == 2048


def test_a_tunnels_labels_are_shown_escaped() -> None:
    raw = b"\5a\x20.\xff\\" + b"\1T\0"
    found = parsed(message([raw + struct.pack("!HH", NULL, 1)]))
    assert found.questions[0].name == "a\\032\\.\\255\\\\.t" and found.questions[0].type == "NULL"
    assert parsed(message([question("")])).questions[0].name == "."


def test_multicast() -> None:
    found = dissect(MDNS, True)
    assert found is not None and (found.role, found.kind, found.server_name) == ("server", "response", "")
    asked = message([question("_ipp._tcp.local", PTR, 0x8001)], [], 0, 0)
    assert parsed(asked).questions[0].name == "_ipp._tcp.local"
    known = message([question("_ipp._tcp.local", PTR)], [record("_ipp._tcp.local", PTR, 9, name("a.local"))], 0, 0)
    assert dissect(known, True) is not None
    assert dissect(b"\1\1" + known[2:], True) is None


def test_a_refusal_without_a_question() -> None:
    assert dissect(struct.pack("!6H", 5, 0x8005, 0, 0, 0, 0), True) is not None
    assert dissect(struct.pack("!6H", 5, 0x8005, 0, 0, 0, 0) + b"x", True) is None


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("udp", [True, False])
def test_cut_anywhere(sample: bytes, udp: bool) -> None:
    data = sample if udp else over_tcp(sample)
    at_every_length(dissect, data, udp, "dns")
    for size in range(len(data) + 1):
        parse(data[:size], udp)


def test_over_tcp_a_cut_message_says_what_is_there() -> None:
    half = parse(over_tcp(CHAIN)[:60], False)
    assert half is not None and half.cut and half.wire_size == len(CHAIN)
    assert half.questions and len(half.answers) < 3
    found = dissect(over_tcp(CHAIN)[:40], False)
    assert found is not None and found.server_name == "www.example.com"


def test_more_than_the_bounds() -> None:
    many = message([question("a")] * 16, [record(b"\xc0\x0c", A, 1, b"\1\2\3\4")] * 65, ANSWERS)
    found = parsed(many)
    assert (len(found.questions), len(found.answers), found.cut) == (16, 64, True)
    assert parse(message([question("a")] * 17), True) is None


def test_work_is_bounded_by_labels() -> None:
    """127 labels by a pointer of two bytes, 128 times: the parser stops, and says so."""
    long = name(".".join("a" * 126))
    found = parsed(message([long + b"\0\1\0\1"], [record(b"\xc0\x0c", CNAME, 1, b"\xc0\x0c")] * 64, ANSWERS))
    assert found.cut and 1 <= len(found.answers) <= dns.LABELS_MAX // 125


def test_names_that_turn_in_circles_or_go_on_for_ever() -> None:
    for answer in (b"\xc0\x13", b"\xc0\xff", b"\xc0\x00", b"\xff\xff", b"\1a\xc0\x13", b"\x40", b"\x80", b"\xc0"):
        assert dns._name(b"\0" * 12 + b"\5abcde\0" + answer, 19) is None
    chain = b"\0" * 12 + b"\1a\0" + b"".join(bytes((0xC0, at)) for at in (12, *range(15, 49, 2)))
    assert dns._name(chain, 15) is not None
    assert dns._name(chain, 15 + 2 * 15) is not None
    assert dns._name(chain, 15 + 2 * 16) is None  # the 17th pointer
    assert dns._name(b"\0" * 12 + (b"\x3f" + b"a" * 63) * 4 + b"\0", 12) is None  # 257 bytes
    assert dns._name(b"\0" * 12 + (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0", 12) is not None


@pytest.mark.parametrize(
    "header",
    [
        (7, 0x100, 1, 0, 0, 65535),  # counts that the length cannot hold
        (7, 0x100, 65535, 0, 0, 0),
        (7, 0x8180, 1, 65535, 65535, 65535),
        (7, 0x3100, 1, 0, 0, 0),  # opcode 6
        (7, 0x0140, 1, 0, 0, 0),  # Z
        (7, 0x0103, 1, 0, 0, 0),  # a query with an error
        (7, 0x0180, 1, 0, 0, 0),  # a query that offers recursion
        (7, 0x0100, 1, 1, 0, 0),  # a query with an answer
        (7, 0x0100, 0, 0, 0, 0),
        (7, 0x8180, 0, 0, 1, 0),
    ],
)
def test_headers_that_make_no_sense(header: tuple[int, ...]) -> None:
    assert dissect(struct.pack("!6H", *header) + question("a.example"), True) is None


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"\0" * 12,
        b"\0" * 64,
        bytes.fromhex("000100002112a442") + bytes(12),  # STUN
        b"\x23\0\6\xec" + bytes(44),  # NTP
        b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        message([question("a", 0)]),
        message([question("a", 1, 7)]),
        message([b"\x3fabc\0\0\1\0\1"]),
        b"\1\0\0\0" + bytes(range(144)),  # WireGuard
    ],
)
def test_near_misses(other: bytes) -> None:
    assert dissect(other, True) is None and parse(other, True) is None


def test_random_datagrams_are_not_dns() -> None:
    random = Random(1)  # noqa: S311
    passed = sum(dissect(random.randbytes(random.randrange(12, 600)), True) is not None for _ in range(50_000))
    assert passed == 0


def test_a_flood_of_names_fills_no_memory() -> None:
    for number in range(dns.CACHED + 50):
        assert dissect(message([question(f"{number:x}.t.example")]), True) is not None
    assert len(dns._known) <= dns.CACHED


def bounded(found: Message | None) -> None:
    if found is None:
        return
    assert len(found.questions) <= dns.QUESTIONS_MAX and len(found.answers) <= dns.ANSWERS_MAX
    for asked in found.questions:
        assert asked.name.isascii() and asked.name.isprintable() and len(asked.name) <= 4 * dns.NAME_MAX
    for answer in found.answers:
        assert len(answer.data) <= TEXT_MAX and answer.data.isprintable() and answer.name.isprintable()
    for asked_name, address, ttl in addresses_of(found):
        assert asked_name and address and 0 <= ttl < 1 << 31


@given(ANY, st.booleans())
def test_any_bytes(data: bytes, udp: bool) -> None:
    sound(dissect(data, udp), "dns")
    bounded(parse(data, udp))


@given(mutated(SAMPLES), st.booleans())
def test_mutations(data: bytes, udp: bool) -> None:
    whole = data if udp else over_tcp(data)
    sound(dissect(whole, udp), "dns")
    bounded(parse(whole, udp))
