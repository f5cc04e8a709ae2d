"""Each of Sigma's modifiers, with what it must match and a near miss."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.rules.helpers import matches


def one(item: str) -> str:
    return f"s:\n  {item}\ncondition: s"


def command_line(item: str, text: str) -> bool:
    return matches(one(f"CommandLine{item}"), {"CommandLine": text})


def encoded(text: str, coding: str = "utf-8", lead: bytes = b"") -> str:
    return base64.b64encode(lead + text.encode(coding)).decode()


@pytest.mark.parametrize(
    ("item", "hit", "miss"),
    [
        (": ssh -R", "ssh -R", "ssh -R x"),
        (": ssh -R", "SSH -r", " ssh -R"),
        ("|contains: tunnel", "a TunneL b", "a tunne l"),
        ("|contains: [one, two]", "x two", "x three"),
        ("|contains|all: [one, two]", "two and one", "one and on"),
        ("|startswith: ssh", "SSH x", "x ssh"),
        ("|endswith: .sock", "curl /run/docker.SOCK", "docker.sock x"),
        ("|startswith|cased: Ssh", "Ssh x", "ssh x"),
        ("|contains|cased: -R", "ssh -R 1", "ssh -r 1"),
        ("|cased: Ab", "Ab", "aB"),
        ("|cased|contains: -Ab", "x -Ab", "x -ab"),
        ("|neq: sure", "no", "SURE"),
        (": [yes, 0777, 2222:22, 2024-01-01]", "0777", "511"),
        (": [yes, 0777, 2222:22, 2024-01-01]", "2222:22", "133342"),
        (": [yes, 0777, 2222:22, 2024-01-01]", "YES", "true"),
        (": 1000", "1000", "01000"),
        ("|contains|neq: [a1, b2]", "c3", "xB2"),
        ("|re: '-[R] +\\d{4}:'", "ssh -R  2222:x", "ssh -r 2222:x"),
        ("|re|i: '-[R] +\\d{4}:'", "ssh -r  2222:x", "ssh -r 222:x"),
        ("|re: '^a.c$'", "abc", "ab\nc"),
        ("|re|s: '^a.c$'", "a\nc", "a\nbc"),
        ("|re|m: '^b$'", "a\nb\nc", "a\nbb"),
        ("|re: '^b$'", "b", "a\nb\nc"),
        ("|re|i|m|s: '^B.C$'", "a\nb\nc", "ab\nc"),
        ("|re: ['^a', 'z$']", "xyz", "zya"),
        ("|re|ignorecase|multiline|dotall: '^B.C$'", "a\nb\nc", "ab\nc"),
        ("|re|all: ['a', 'b']", "b a", "bb"),
        ("|re|neq: 'a+'", "b", "ba"),
        ("|re|startswith: 'a|b'", "bx", "xb"),
        ("|re|endswith|m: 'a|b'", "xb", "b\nx"),
        ("|re|contains: 'a|b'", "xbx", "x"),
        ("|contains|startswith: a", "xa", "x"),
        ("|neq|contains|all: [a, b]", "a", "b a"),
        ("|windash|contains: ' -R '", "ssh /R x", "ssh +R x"),
        ("|windash|contains: ' -R '", "ssh \N{EM DASH}R x", "ssh R x"),
        ("|windash|contains|all: [' -a', ' -b']", "x /b -a", "x -a"),
        ("|wide|contains: ab", "xa\0b\0", "xab"),
        ("|utf16le|contains: ab", "xa\0b\0", "x\0a\0b"),
        ("|utf16be|contains: ab", "x\0a\0b", "xa\0b\0"),
        ("|utf16|contains: ab", "x\ufeffa\0b\0", "xa\0b\0"),
        ("|base64|contains: stratum", f"echo {encoded('stratum')} | base64 -d", f"echo {encoded('stratun')}"),
        ("|wide|base64|contains: id_rsa", encoded("id_rsa", "utf-16le"), encoded("id_rsa")),
        ("|utf16|base64|contains: id_rsa", encoded("id_rsa", "utf-16"), encoded("id_rsa", "utf-16le")),
    ],
)
def test_text_modifier(item: str, hit: str, miss: str) -> None:
    assert command_line(item, hit)
    assert not command_line(item, miss)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
def test_base64offset_finds_the_text_at_every_alignment(shift: int) -> None:
    hidden = encoded("/dev/tcp/ and more", lead=b"#" * shift)
    assert command_line("|base64offset|contains: /dev/tcp/", f"echo {hidden}")
    assert not command_line("|base64offset|contains: /dev/udp/", f"echo {hidden}")


@pytest.mark.parametrize(
    ("pattern", "hit", "miss"),
    [
        ("a*c", "abbc", "abcd"),
        ("a*c", "ac", "a"),
        ("a?c", "aXc", "ac"),
        ("a??c", "a--c", "a-c"),
        ("*x*y*", "..x..y..", "..y..x.."),
        ("x*x", "xx", "x"),
        ("ab*ba", "abba", "aba"),
        ("*mid*end", "a mid b end", "a end mid"),
        ("start*mid*", "start, mid", "mid start"),
        ("a?b*c", "aéb--c", "ab--c"),
        ("?", "é", "éé"),
        ("?*", "a", ""),
        ("*", "a", ""),
        (r"a\*c", "a*c", "abc"),
        (r"a\?c", "a?c", "abc"),
        (r"a\\*c", "a\\bc", "abc"),
        (r"a\\\*c", "a\\*c", "a\\bc"),
        (r"a\b", "a\\b", "ab"),
        (r"*\*\?*", "x*?y", "x*y"),
        ("a.c+(d)[e]", "A.C+(D)[E]", "abc+(d)[e]"),
        ("a.?", "a.b", "axb"),
        ("line?two*", "line\ntwo\nthree", "line two"[:7]),
    ],
)
def test_wildcards_and_escapes(pattern: str, hit: str, miss: str) -> None:
    assert command_line(f": '{pattern}'", hit)
    assert not command_line(f": '{pattern}'", miss)


@pytest.mark.parametrize(
    ("item", "hit", "miss"),
    [
        ("DestinationPort: 3333", 3333, 3334),
        ("DestinationPort: '3333'", 3333, 333),
        ("DestinationPort: [22, 3333]", 22, 23),
        ("DestinationPort|lt: 1024", 1023, 1024),
        ("DestinationPort|lte: 1024", 1024, 1025),
        ("DestinationPort|gt: 1024", 1025, 1024),
        ("DestinationPort|gte: 1024", 1024, 1023),
        ("DestinationPort|neq: [80, 443]", 22, 443),
        ("DestinationPort|startswith: '33'", 3399, 1333),
        ("DestinationPort: '3?33'", 3933, 333),
        ("DestinationPort|re: '^(33|44)+$'", 3344, 3345),
        ("DestinationPort|exists: true", 0, None),
        ("DestinationPort: [null, 5]", 5, 0),
        ("DestinationPort|gt: 1.5", 2, 1),
    ],
)
def test_number_modifier(item: str, hit: int, miss: int | None) -> None:
    assert matches(one(item), {"DestinationPort": hit}, "network_connection")
    if miss is not None:
        assert not matches(one(item), {"DestinationPort": miss}, "network_connection")


@pytest.mark.parametrize(
    ("item", "hit", "miss"),
    [
        ("DestinationIp|cidr: 203.0.113.0/24", "203.0.113.255", "203.0.114.0"),
        ("DestinationIp|cidr: [10.0.0.0/8, '2001:db8::/32']", "2001:db8:ffff::1", "2001:db9::1"),
        ("DestinationIp|cidr: 169.254.169.254/32", "::ffff:169.254.169.254", "::fffe:169.254.169.254"),
        ("DestinationIp|cidr: 0.0.0.0/0", "1.2.3.4", ""),
        ("DestinationIp|cidr: '::/0'", "fe80::1", "not an address"),
        ("DestinationIp|cidr|neq: 10.0.0.0/8", "11.0.0.1", "10.0.0.1"),
        ("DestinationIp: '2001:DB8::1'", "2001:db8::1", "2001:db8::11"),
        ("DestinationIp|startswith: '10.'", "10.1.2.3", "110.1.2.3"),
        ("DestinationIp: null", "", "1.1.1.1"),
        ("DestinationIp|exists: true", "1.1.1.1", ""),
        ("DestinationIp|exists: false", "", "1.1.1.1"),
    ],
)
def test_address_modifier(item: str, hit: str, miss: str) -> None:
    assert matches(one(item), {"DestinationIp": hit}, "network_connection")
    assert not matches(one(item), {"DestinationIp": miss}, "network_connection")


@pytest.mark.parametrize(
    ("item", "value", "matched"),
    [
        ("GpuGranted: true", True, True),
        ("GpuGranted: 'TRUE'", True, True),
        ("GpuGranted: 1", True, True),
        ("GpuGranted: false", True, False),
        ("GpuGranted: 'false'", False, True),
        ("GpuGranted: 0", True, False),
        ("GpuGranted|neq: true", False, True),
        ("GpuGranted|exists: true", False, True),
        ("GpuGranted: null", False, False),
    ],
)
def test_flag(item: str, value: bool, matched: bool) -> None:
    assert matches(one(item), {"GpuGranted": value}, "device_access") == matched


@pytest.mark.parametrize(
    ("item", "event", "matched"),
    [
        ("Image|fieldref: ParentImage", {"Image": "/A", "ParentImage": "/a"}, True),
        ("Image|fieldref: ParentImage", {"Image": "/a", "ParentImage": "/b"}, False),
        ("Image|fieldref|endswith: User", {"Image": "/home/bob", "User": "BOB"}, True),
        ("Image|fieldref|endswith: User", {"Image": "/home/bob/x", "User": "bob"}, False),
        ("Image|fieldref|startswith: CurrentDirectory", {"Image": "/w/x", "CurrentDirectory": "/w"}, True),
        ("Image|fieldref|startswith: CurrentDirectory", {"Image": "/w/x", "CurrentDirectory": ""}, False),
        ("CommandLine|fieldref|contains: User", {"CommandLine": "su bob -c x", "User": "bob"}, True),
        ("CommandLine|fieldref|contains: User", {"CommandLine": "su -c x", "User": "bob"}, False),
        ("Uid|fieldref: EffectiveUid", {"Uid": 5, "EffectiveUid": 5}, True),
        ("Uid|fieldref|neq: EffectiveUid", {"Uid": 5, "EffectiveUid": 5}, False),
        ("User|fieldref: Uid", {"User": "1000", "Uid": 1000}, True),
    ],
)
def test_fieldref(item: str, event: dict[str, Any], matched: bool) -> None:
    assert matches(one(item), event) == matched


@pytest.mark.parametrize(
    ("item", "matched"),
    [
        ("hour: 3", True),
        ("hour: 4", False),
        ("minute: 59", True),
        ("day: 29", True),
        ("week: 9", True),
        ("week: 8", False),
        ("month: 2", True),
        ("year: 2024", True),
        ("year: [2023, 2025]", False),
    ],
)
def test_time_part(item: str, matched: bool) -> None:
    moment = datetime(2024, 2, 29, 3, 59, 30, tzinfo=UTC)
    assert matches(one(f"time_ns|{item}"), {"time_ns": int(moment.timestamp()) * 10**9}) == matched


@pytest.mark.parametrize(
    ("detection", "event", "matched"),
    [
        ("s: [needle]\ncondition: s", {"CommandLine": "a NEEDLE b"}, True),
        ("s: [needle]\ncondition: s", {"ParentImage": "/opt/needle"}, True),
        ("s: [needle]\ncondition: s", {"ImageInvoked": "./needle"}, True),
        ("s: [needle]\ncondition: s", {"SandboxName": "needle"}, False),
        ("s: needle\ncondition: s", {"Image": "/needle"}, True),
        ("s: [needle, 4444]\ncondition: s", {"CommandLine": "nc h 4444"}, True),
        ("s: ['n*e']\ncondition: s", {"CommandLine": "x n--e x"}, True),
        ("s: ['n*e']\ncondition: s", {"CommandLine": "x e--n x"}, False),
        ("s:\n  '|all': [aa, bb]\ncondition: s", {"CommandLine": "aa", "Image": "/bb"}, True),
        ("s:\n  '|all': [aa, bb]\ncondition: s", {"CommandLine": "aa"}, False),
        ("s:\n  '|re': 'n[0-9]'\ncondition: s", {"CommandLine": "n5"}, True),
        ("s:\n  '|re': 'n[0-9]'\ncondition: s", {"CommandLine": "nn"}, False),
        ("s:\n  '|cased': Needle\ncondition: s", {"CommandLine": "needle"}, False),
    ],
)
def test_keywords(detection: str, event: dict[str, Any], matched: bool) -> None:
    assert matches(detection, event) == matched


@pytest.mark.parametrize(
    ("item", "text", "matched"),
    [
        (": STRASSE", "straße", True),
        ("|contains: 'ΟΔΟΣ'", "x οδος y", True),
        ("|contains: 'ΟΔΟΣ'", "οδοσαμ", True),
        ("|contains|cased: 'ΟΔΟΣ'", "ΟΔΟΣΑΜ", True),
        ("|re|i: 'kelvin'", "\N{KELVIN SIGN}elvin", True),
        ("|re: 'é$'", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", True),
        ("|contains: 'é'", "caf\N{LATIN CAPITAL LETTER E WITH ACUTE}", True),
    ],
)
def test_case_beyond_ascii(item: str, text: str, matched: bool) -> None:
    assert command_line(item, text) == matched
