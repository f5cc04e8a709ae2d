"""Hellos as OpenSSL, browsers and adversaries send them, whole, cut and split."""

from __future__ import annotations

import random
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.protocols import client_hello, tls
from sensor.enrich.protocols.repeats import BYTES, ENTRIES, Repeats, Rest, rest_of
from sensor.enrich.protocols.result import TEXT_MAX, Found
from tests.fuzz import build
from tests.fuzz.checks import checked

BROWSER = build.record(build.browser())
# OpenSSL 3.0 answering with TLS 1.3, and with 1.2 and ALPN; up to the next message.
SERVER_13 = bytes.fromhex(
    "160303007a020000760303a0ee950d93d4242bee69c90e0e2f0fe2b3470c63403f55e2da47427ff57cfb79201d30e3fc0f81484e7d778dd4"
    "e5851c0b2c8ce8fcd3a9a167843632d110535272130200002e002b0002030400330024001d00203d52be87aeeeb4c30226cc81e8d23e2899"
    "6047a6305fb236193d1623a84c0e62140303"
)
SERVER_12 = bytes.fromhex(
    "160303004a0200004603039a353cfc204fb83ffc0ddc8afbfd47793a03ca38942b9013c9aca7e2c81072b100c02c00001eff01000100000b"
    "0004030001020023000000100005000302683200170000160303017b0b00017700017400"
)


def openssl_hello(name: str | None, protocols: tuple[str, ...], highest: ssl.TLSVersion | None = None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if highest is not None:
        context.maximum_version = highest
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


OTHER_RECORDS = [
    (b"\x15\x03\x01\x00\x02\x02\x28", "alert"),
    (b"\x15\x03\x03\x00\x02", "alert"),
    (b"\x15\x03\x03\x00\x1a" + bytes(26), "alert"),
    (b"\x14\x03\x03\x00\x01\x01", "record"),
    (b"\x17\x03\x03\x01\x00" + bytes(256), "record"),
    (b"\x16\x03\x03\x00\x04\x0e\0\0\0", "record"),
    (b"\x16\x03\x01\x02\x00", "record"),
]
SAMPLES = (
    *(BROWSER, SERVER_13, SERVER_12, openssl_hello("example.org", ("h2",)), build.records(build.browser(), 99)),
    *(data for data, _ in OTHER_RECORDS),
)


def dissect(data: bytes) -> Found:
    found = tls.dissect(data, False)
    assert found is not None
    return found


def test_the_hello_of_this_python() -> None:
    found = dissect(openssl_hello("Files.Example.org", ("h2", "http/1.1")))
    assert found.ja4.startswith("t13d") and found.ja4[8:10] == "h2"
    assert found == Found(
        "tls", "client", "client_hello", "1.3", server_name="files.example.org", alpn="h2,http/1.1", ja4=found.ja4
    )


def test_without_name_and_alpn() -> None:
    found = dissect(openssl_hello(None, ()))
    assert (found.server_name, found.alpn) == ("", "")
    assert found.ja4.startswith("t13i") and found.ja4[8:10] == "00"


def test_an_older_version_is_said_by_the_hello_itself() -> None:
    found = dissect(openssl_hello("example.org", (), ssl.TLSVersion.TLSv1_2))
    assert found.version == "1.2" and found.ja4.startswith("t12d")
    plain = build.record(build.message([], (0x002F,), session=0, legacy=0x0300))
    assert dissect(plain).version == "ssl3" and dissect(plain).ja4.startswith("ts3i010000_")


def test_the_published_example() -> None:
    """The lists of FoxIO's JA4.md, with GREASE among them as the browser had it."""
    kinds = [0x001B, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002D, 0x000D]
    kinds += [0x0005, 0x0023, 0x0012, 0x002B, 0xFF01, 0x000B, 0x000A, 0x0015]
    full = dict([build.server_name(b"example.com"), build.alpn(b"h2", b"http/1.1"), build.signatures()])
    full |= dict([build.versions(0xCACA, 0x0304, 0x0303)])
    extensions = [(0x0A0A, b""), *((kind, full.get(kind, b"")) for kind in kinds), (0xFAFA, b"\0")]
    ciphers = [0x3A3A, 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030, 0xCCA9]
    ciphers += [0xCCA8, 0xC013, 0xC014, 0x009C, 0x009D, 0x002F, 0x0035]
    found = dissect(build.record(build.message(extensions, tuple(ciphers))))
    assert found.ja4 == "t13d1516h2_8daaf6152771_e5627efa2ab1"


@pytest.mark.parametrize(("data", "version", "alpn"), [(SERVER_13, "1.3", ""), (SERVER_12, "1.2", "h2")])
def test_server_hello(data: bytes, version: str, alpn: str) -> None:
    assert dissect(data) == Found("tls", "server", "server_hello", version, alpn=alpn)


@pytest.mark.parametrize("data", [BROWSER, SERVER_13, SERVER_12, openssl_hello("example.org", ("h2",))])
def test_every_cut_is_the_same_with_less_said(data: bytes) -> None:
    whole = dissect(data)
    said = 0
    for size in range(len(data)):
        found = tls.dissect(data[:size], False)
        if size < 5:
            assert found is None
            continue
        assert found is not None and found.protocol == "tls" and found.certain
        assert found.kind == (whole.kind if size > 5 else "record")
        pairs = [(found.version, whole.version), (found.server_name, whole.server_name), (found.alpn, whole.alpn)]
        assert all(part in ("", full) for part, full in [*pairs, (found.ja4, whole.ja4)])
        now = sum(bool(part) for part, _ in pairs) + bool(found.ja4)
        assert now >= said  # what was certain from less is so from more
        said = now


def test_a_fingerprint_wants_all_extensions_and_not_all_of_the_last() -> None:
    keys_last = build.message([build.server_name(b"a.example"), build.versions(0x0304), (0x0033, bytes(8000))])
    whole = dissect(build.record(keys_last))
    cut = dissect(build.record(keys_last)[:4096])
    assert cut == whole and cut.ja4.startswith("t13d0203")
    names_last = build.message([(0x0033, bytes(8000)), build.versions(0x0304), build.server_name(b"a.example")])
    cut = dissect(build.record(names_last)[:4096])
    assert (cut.kind, cut.server_name, cut.ja4, cut.version) == ("client_hello", "", "", "")


def test_a_post_quantum_hello_fits() -> None:
    assert len(BROWSER) > 1500
    found = dissect(BROWSER)
    assert (found.server_name, found.alpn, found.version) == ("example.com", "h2,http/1.1", "1.3")
    assert found.ja4.startswith("t13d1115h2_")


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 40, 100, 300, 1000])
def test_a_hello_split_over_records_is_read_all_the_same(size: int) -> None:
    """RFC 8446, 5.1 allows it, and a filter that looks at one record is so evaded."""
    hello = build.message([build.server_name(b"pool.example"), build.versions(0x0304)])
    assert dissect(build.records(hello, size)) == dissect(build.record(hello))
    assert dissect(build.records(hello, size)).server_name == "pool.example"


def test_records_of_other_kinds_between_end_the_hello() -> None:
    hello = build.message([build.server_name(b"pool.example")])
    found = dissect(build.record(hello[:60]) + build.record(hello[60:], kind=0x17))
    assert (found.kind, found.server_name, found.ja4) == ("client_hello", "", "")


@pytest.mark.parametrize(("data", "kind"), OTHER_RECORDS)
def test_other_records(data: bytes, kind: str) -> None:
    assert dissect(data) == Found("tls", "", kind)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01\x02",
        b"\x17" + BROWSER,  # frp's
        b"\x16\x02\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x05\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\x00\x00\x01\x00\x01\xfc\x03\x03",
        b"\x16\x03\x01\xff\xff\x01\x00\x01\xfc\x03\x03",
        b"\x18\x03\x03\x00\x13" + bytes(19),
        b"\x15\x03\x03\x00\x02\x09\x28",
        b"\x15\x03\x03\x00\x05" + bytes(5),
        b"\x14\x03\x03\x00\x02\x01\x01",
        b"\x14\x03\x03\x00\x01\x07",
        b"\x16\x03\x03\x00\x40\x63" + bytes(63),
        b"\x16\x03\x03\x00\x40\x01\x01\x00\x00\x03\x03" + bytes(60),
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x04\x03" + bytes(60),
        b"\x16\x03\x03\x00\x40\x02\x00\x00\x3c\x03\x05" + bytes(60),
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x08\x03\x03" + bytes(60),
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x03\x03" + bytes(32) + b"\x21" + bytes(40),  # a session of 33 bytes
        b"\x16\x03\x03\x00\x40\x02\x00\x00\x3c\x03\x03" + bytes(32) + b"\x21" + bytes(40),
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x03\x03" + bytes(33) + b"\x00\x03abc\x01\0" + bytes(40),  # odd ciphers
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x03\x03" + bytes(33) + b"\xff\xfe" + bytes(40),
        b"\x16\x03\x03\x00\x40\x01\x00\x00\x3c\x03\x03" + bytes(33) + b"\x00\x02ab\x00" + bytes(40),  # no compression
    ],
)
def test_what_only_looks_like_it(data: bytes) -> None:
    assert tls.dissect(data, False) is None


def test_not_over_udp() -> None:
    assert tls.dissect(BROWSER, True) is None


@pytest.mark.parametrize(
    "extension",
    [
        (0x0000, b""),
        (0x0000, b"\xff\xff\0\xff\xff"),
        (0x0000, b"\0\x05\0\xff\xffabc"),
        (0x0000, b"\0\x05\x01\0\x03abc"),
        (0x0010, b""),
        (0x0010, b"\xff\xff\xff"),
        (0x0010, b"\0\x03\0\0\0"),
        (0x002B, b""),
        (0x002B, b"\xff"),
        (0x002B, b"\x03\x03"),
        (0x002B, b"\x02\x3a\x3a"),
        (0x000D, b"\0"),
        (0x000D, b"\xff\xff\x04"),
    ],
)
def test_extensions_that_lie_say_nothing(extension: build.Extension) -> None:
    found = dissect(build.record(build.message([extension])))
    assert (found.kind, found.server_name, found.alpn) == ("client_hello", "", "")
    assert found.ja4[:3] == "t12"


def test_lengths_that_lie_leave_no_fingerprint() -> None:
    """The number of extensions is in it: a list that contradicts its length has no true number."""
    hello = build.message([build.server_name(b"a.example"), build.versions(0x0304)])
    for change in (b"\xff\xff", b"\0\0", b"\0\x01"):
        lying = bytearray(hello)
        at = 4 + 2 + 32 + 33 + 6 + 2
        assert int.from_bytes(lying[at : at + 2]) == len(hello) - at - 2
        lying[at : at + 2] = change
        assert dissect(build.record(bytes(lying))).ja4 == ""


def test_hostile_names_are_made_printable_and_cut() -> None:
    hello = [build.server_name(b"\x1b]0;x\x07\xff" + b"a" * 2000), build.alpn(*[b"\0\n\xff" + b"z" * 200] * 5)]
    found = checked(tls.dissect(build.record(build.message(hello)), False))
    assert found is not None
    assert found.server_name.startswith("\ufffd]0;x\ufffd\ufffdaaa") and len(found.server_name) == TEXT_MAX
    assert found.alpn.startswith("\ufffd\ufffd\ufffdzz") and len(found.alpn) == TEXT_MAX


def test_a_thousand_extensions_are_a_hello_too() -> None:
    many = [(0x6000 + number, b"") for number in range(1000)]
    found = dissect(build.record(build.message(many, tuple(range(0x1301, 0x1301 + 300)))))
    assert found.ja4.startswith("t12i9999")


def rest(hello: bytes) -> Rest:
    found = rest_of(hello, listed=True)
    assert found is not None
    return found


def learned(repeats: Repeats, hello: bytes, found: Found) -> None:
    parsed = client_hello.parse(hello, 5, len(hello), "t")
    assert parsed is not None
    repeats.learn(hello, rest(hello), parsed.extensions_at, found)


def fresh(hello: bytes) -> bytes:
    """The same program's next hello: of a record with a session of 32 bytes, and key shares of all zeros."""
    noise = random.randbytes(2000)  # noqa: S311
    share = hello.find(b"\0\x33\x04")
    size = int.from_bytes(hello[share + 2 : share + 4])
    assert hello[43] == 32 and not any(hello[share + 6 : share + 4 + size])
    start, middle, end = hello[:11], hello[76 : share + 6], hello[share + 4 + size :]
    return start + noise[:32] + b"\x20" + noise[32:64] + middle + noise[64 : 64 + size - 2] + end


def test_what_repeats_gives_what_the_walk_gives() -> None:
    names = [b"a.example", b"b.example", b"pypi.example", b"c.example"]
    hellos = [build.record(build.browser(name)) for name in names] * 4
    hellos += [openssl_hello(name.decode(), ("http/1.1",)) for name in names] * 4
    for hello in hellos:
        walked = client_hello.parse(hello, 5, len(hello), "t")
        found = tls.dissect(hello, False)
        assert walked is not None and found is not None
        assert (found.server_name, found.ja4) == (walked.hello.server_name, walked.hello.ja4) != ("", "")


def test_a_programs_next_hello_is_found_by_what_repeats() -> None:
    repeats, found = Repeats(), dissect(BROWSER)
    for _ in range(2):  # what comes once is not kept
        assert rest(BROWSER) not in repeats.known
        learned(repeats, BROWSER, found)
    for _ in range(9):
        assert repeats.known[rest(fresh(BROWSER))] == found
    assert rest(build.record(build.browser(b"other.name.example"))) not in repeats.known
    assert rest(BROWSER[:1200]) not in repeats.known


def test_what_is_cut_in_its_key_shares_is_not_taken_for_whole() -> None:
    """A server's hello may end with them: by the rest alone both are equal."""
    body = b"\x03\x03" + bytes(32) + build.sized(bytes(32), 1) + b"\x13\x01\0"
    body += build.sized(b"\0\x33" + build.sized(b"\0\x1d" + build.sized(bytes(range(32)))))
    hello = build.record(b"\x02" + build.sized(body, 3), minor=3)
    for _ in range(4):
        assert dissect(hello).version == "1.2" and dissect(hello[:-5]).version == ""


def test_a_shuffled_hello_has_the_same_fingerprint() -> None:
    """Browsers shuffle their extensions, and put another value of RFC 8701 in front each time."""
    source, seen = random.Random(4), set()  # noqa: S311
    kinds = [(0x17, b""), (0x23, b""), build.alpn(b"h2"), build.signatures(), (0x33, bytes(36)), (0xFF01, b"\0")]
    for _ in range(50):
        grease = [value << 8 | value for value in source.sample(range(0x0A, 0x100, 0x10), 3)]
        source.shuffle(kinds)
        offered = [(grease[0], b""), *kinds, build.server_name(b"a.example"), build.versions(grease[1], 0x0304)]
        seen.add(dissect(build.record(build.message(offered, (grease[2], 0x1301, 0x1302)))))
    assert len(seen) == 1


@pytest.mark.parametrize("place", ["name", "padding", "ciphers"])
def test_the_mark_of_key_shares_elsewhere_hides_nothing(place: str) -> None:
    """`00 33` and a length where no extension starts: what it would pass over is read all the same."""
    mark = b"\0\x33\0\x06"

    def hello(hidden: bytes) -> bytes:
        name = b"a" + mark + hidden + b".example" if place == "name" else b"plain.example"
        padding = [(0x15, b"xx" + mark + bytes(6))] if place == "padding" else []
        ciphers = (0x1301, 0x0033, 0x0006) if place == "ciphers" else (0x1301,)
        extensions = [*padding, build.server_name(name), build.alpn(hidden), build.versions(0x0304)]
        return build.record(build.message([*extensions, build.signatures(), (0x33, bytes(38))], ciphers))

    for _ in range(4):
        for hidden in (b"first1", b"second"):
            found = dissect(hello(hidden))
            assert found.alpn == hidden.decode() and found.ja4
            assert place != "name" or hidden.decode() in found.server_name


def test_two_hellos_of_one_length_are_not_taken_for_each_other() -> None:
    one = build.record(build.message([build.server_name(b"aaaa.example"), build.alpn(b"h2"), (0x0015, bytes(9))]))
    two = build.record(build.message([build.server_name(b"aaaa.example"), (0x0015, bytes(9)), build.alpn(b"h3")]))
    assert len(one) == len(two)
    for data, alpn in [(one, "h2")] * 3 + [(two, "h3"), (one, "h2")] * 3 + [(two, "h3")] * 3:
        assert dissect(data).alpn == alpn


def test_a_flood_of_different_hellos_fills_no_memory() -> None:
    repeats = Repeats()
    for number in range(ENTRIES + 100):
        hello = build.record(build.message([build.server_name(b"%d.example" % number), (9, bytes(900))]))
        for _ in range(2):
            learned(repeats, hello, Found("tls", "client"))
        assert rest(hello) in repeats.known
    assert len(repeats.known) <= ENTRIES
    assert sum(len(key[2]) + len(key[3] or b"") for key in repeats.known if key is not None) <= BYTES


@given(st.binary(max_size=4200), st.binary(max_size=16))
def test_noise(noise: bytes, head: bytes) -> None:
    for data in (noise, b"\x16\x03\x01\x02\x00\x01\x00" + noise, b"\x16\x03\x03\x02\x00\x02\x00" + noise, head + noise):
        checked(tls.dissect(data, False))


@given(
    st.sampled_from([BROWSER, SERVER_13, SERVER_12, build.records(build.browser(), 50)]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 4096),
)
def test_mutations(sample: bytes, changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(sample)
    for at, value in changes:
        data[at % len(data)] = value
    checked(tls.dissect(bytes(data[:size]), False))
    checked(tls.dissect(bytes(data), False))
