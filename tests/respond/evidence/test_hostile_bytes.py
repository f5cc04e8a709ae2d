"""What a sandbox chooses the bytes of: JSON holds it, and no value of an environment is in it."""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.respond.evidence.archive import encoded
from sensor.respond.evidence.bounded import Notes, Record, put
from sensor.respond.evidence.memory import _put_argv, _put_maps, redacted
from sensor.respond.evidence.netsockets import _attributes, _described
from sensor.respond.evidence.processes import _inode, _status, _within


@given(st.binary(max_size=300), st.integers(1, 200))
def test_bytes_are_text_or_stand_beside_it(raw: bytes, most: int) -> None:
    record: Record = {}
    put(record, "path", raw, most)
    found = json.loads(encoded(record).decode("ascii"))
    kept = b64decode(found["path_b64"]) if "path_b64" in found else found["path"].encode()
    assert kept == raw[:most]
    assert found.get("path_bytes", len(raw)) == len(raw)


@given(st.binary(max_size=300))
def test_argv_comes_back(raw: bytes) -> None:
    record: Record = {}
    _put_argv(record, raw, len(raw) + 5)
    found = json.loads(encoded(record))
    kept = b64decode(found["argv_b64"]) if "argv_b64" in found else "\0".join(found["argv"]).encode()
    assert kept.removesuffix(b"\0") == raw.removesuffix(b"\0")
    assert found["argv_bytes"] == len(raw) + 5


SECRET = "hunter2-QmFzZTY0"  # noqa: S105


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (b"TOKEN=%s\0", ["TOKEN"]),
        (b"TOKEN=%s=\0", ["TOKEN"]),
        (b"TOKEN==%s\0PATH=/bin\0", ["TOKEN", "PATH"]),
        (b"TOKEN=%s", ["TOKEN"]),
        (b"%s\0PATH=/bin\0", [None, "PATH"]),  # no `=` at all
        (b"%s=\0PATH=/bin\0", [None, "PATH"]),  # base64's own
        (b"Authorization: %s a=b\0", [None]),
        (b"BASH_FUNC_f%%%%=() { echo %s; }\0", [None]),
        (b"A\nB=%s\0", [None]),
    ],
)
@pytest.mark.parametrize("overwritten", [False, True])
def test_no_value_of_an_environment_is_kept(environment: bytes, names: list[Any], overwritten: bool) -> None:
    filled = environment.replace(b"%%", b"%").replace(b"%s", SECRET.encode())
    found = redacted(filled, overwritten)
    assert [each["name"] for each in found] == ([None, *names[1:]] if overwritten else names)
    assert SECRET.encode() not in encoded(found)
    assert all(each.keys() == {"name", "length"} for each in found)


def test_a_title_that_ran_into_the_environment_leaves_no_first_name() -> None:
    """`SECRET=` of which the beginning is gone looks like a name."""
    assert redacted(b"c2VjcmV0=\0PATH=/bin\0", True) == [{"name": None, "length": 9}, {"name": "PATH", "length": 4}]


@given(st.binary(max_size=400), st.booleans())
def test_any_environment_is_names_and_lengths(environment: bytes, overwritten: bool) -> None:
    for each in redacted(environment, overwritten):
        assert each["name"] is None or each["name"].replace(".", "_").isidentifier()
        assert each["length"] > 0 or each["name"]


MAPS = b"""\
55d0c0a00000-55d0c0a01000 r-xp 00001000 fd:01 1234                       /tmp/x y (deleted)
55d0c0b00000-55d0c0b01000 r--p 00001000 fd:01 1234                       /tmp/x y (deleted)
7f0000000000-7f0000001000 rwxp 00000000 00:01 99                         /memfd:a (deleted)
7f0000002000-7f0000003000 r-xp 00000000 fd:01 5                          /bin/true
7f0000004000-7f0000005000 rwxp 00000000 00:00 0
7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0                          [vdso]
"""


def test_deleted_code_is_found_in_maps() -> None:
    record: Record = {}
    found = _put_maps(record, MAPS)
    assert [(each.where, each.key, each.path) for each in found] == [
        ("55d0c0a00000-55d0c0a01000", ("fd:01", 1234), b"/tmp/x y (deleted)"),
        ("7f0000000000-7f0000001000", ("00:01", 99), b"/memfd:a (deleted)"),
    ]
    assert record["maps"] == MAPS.decode().splitlines()


@pytest.mark.parametrize(
    ("cgroup", "inside"),
    [
        (b"0::/a/b\n", True),
        (b"0::/a/b/c\n", True),
        (b"2:cpu:/x\n0::/a/b\n", True),
        (b"0::/a/bc\n", False),
        (b"0::/a\n", False),
        (b"1:name=0::/a/b:/\n", False),
        (b"", False),
    ],
)
def test_membership_is_told_by_whole_names(cgroup: bytes, inside: bool) -> None:
    assert _within(cgroup, b"/a/b") is inside


@given(st.binary(max_size=200))
def test_noise_for_text_of_the_kernel_is_no_error(noise: bytes) -> None:
    json.loads(encoded(_status(noise)))
    assert _inode(noise) >= 0
    _within(noise, b"/a")


@given(st.binary(min_size=72, max_size=500))
def test_noise_for_a_socket_is_no_error(noise: bytes) -> None:
    message = struct.pack("=B", 2) + noise[1:]
    json.loads(encoded(_described(message, dict(_attributes(message)), 0)))


def test_notes_are_bounded_and_once_each() -> None:
    notes = Notes()
    for number in range(1000):
        notes.cut(f"{number}")
        notes.cut("0")
    assert len(notes.lines) == 256
    assert not notes.partial
    notes.lost("more")
    assert notes.partial
