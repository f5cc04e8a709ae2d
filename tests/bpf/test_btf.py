"""Offsets from hand-made BTF, and one line for whatever is no BTF."""

from __future__ import annotations

import tempfile
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.bpf.btf import Btf
from sensor.errors import BtfError
from tests.bpf import blob
from tests.bpf.blob import Blob


def test_members_and_sizes(tmp_path: Path) -> None:
    made = Blob()
    number = made.number()
    made.struct("pair", 8, ("first", number, 0), ("second", number, 32))
    btf = made.read(tmp_path)
    assert btf.offset("pair", "first") == 0
    assert btf.offset("pair", "second") == 4
    assert btf.size("pair") == 8


def test_members_of_anonymous_structs_and_unions_are_the_outers_own(tmp_path: Path) -> None:
    made = Blob()
    number = made.number()
    inner = made.struct("", 8, ("deep", number, 32), ("flat", number, 0))
    union = made.union("", 8, ("", inner, 0), ("other", number, 0))
    made.struct("outer", 24, ("head", number, 0), ("", union, 64), ("named", inner, 128))
    btf = made.read(tmp_path)
    assert btf.offset("outer", "other") == 8
    assert btf.offset("outer", "flat") == 8
    assert btf.offset("outer", "deep") == 12
    assert btf.offset("outer", "named") == 16
    made = Blob()
    number = made.number()
    hidden = made.struct("", 4, ("deep", number, 0))
    made.struct("outer", 4, ("named", hidden, 0))
    with pytest.raises(BtfError):  # what a named member holds is not the outer's own
        made.read(tmp_path).offset("outer", "deep")


def test_bitfields_beside_a_member_do_not_shift_it(tmp_path: Path) -> None:
    """With kind_flag the upper eight bits of an offset are a bitfield's width."""
    made = Blob()
    number = made.number()
    members = (("bits", number, 3 << 24 | 0), ("more", number, 5 << 24 | 3), ("whole", number, 32))
    made.struct("flagged", 8, *members, flag=True)
    btf = made.read(tmp_path)
    assert btf.offset("flagged", "whole") == 4
    assert btf.offset("flagged", "more") == 0


def test_the_newest_name_that_is_there_is_taken(tmp_path: Path) -> None:
    made = Blob()
    number = made.number()
    made.struct("task", 16, ("old_name", number, 64))
    made.struct("both", 16, ("new_name", number, 32), ("old_name", number, 64))
    btf = made.read(tmp_path)
    assert btf.offset("task", "new_name", "old_name") == 8
    assert btf.offset("both", "new_name", "old_name") == 4


def test_what_follows_each_kind_is_stepped_over(tmp_path: Path) -> None:
    """A wrong length for one kind would make everything behind it unreadable."""
    made = Blob()
    number = made.number()
    made.add(blob.PTR, size=number)
    made.add(blob.ARRAY, tail=pack("<III", number, number, 4))
    made.add(blob.ENUM, "e", size=4, vlen=2, tail=pack("<IIII", 0, 0, 0, 1))
    made.add(blob.FWD, "forward")
    made.add(blob.TYPEDEF, "t", size=number)
    made.add(blob.FUNC_PROTO, size=number, vlen=3, tail=bytes(24))
    made.add(blob.FUNC, "f", size=number)
    made.add(blob.VAR, "v", size=number, tail=bytes(4))
    made.add(blob.DATASEC, ".data", vlen=2, tail=bytes(24))
    made.add(blob.FLOAT, "double", size=8)
    made.add(blob.DECL_TAG, "tag", size=number, tail=bytes(4))
    made.add(blob.ENUM64, "e64", size=8, vlen=2, tail=bytes(24))
    inner = made.struct("", 4, ("found", number, 0))
    made.struct("last", 12, ("", inner, 64))
    assert made.read(tmp_path).offset("last", "found") == 8


def test_a_struct_is_not_taken_for_a_typedef_or_forward_of_its_name(tmp_path: Path) -> None:
    made = Blob()
    number = made.number()
    made.add(blob.FWD, "both")
    made.add(blob.TYPEDEF, "both", size=number)
    made.struct("both", 8, ("member", number, 32))
    assert made.read(tmp_path).offset("both", "member") == 4


@pytest.mark.parametrize(
    ("struct", "members", "complaint"),
    [
        ("absent", ("m",), "no struct absent"),
        ("pair", ("absent",), "struct pair has no member absent"),
        ("pair", ("newer", "older"), "no member newer or older"),
        ("int", ("m",), "no struct int"),
        ("air", ("m",), "no struct air"),  # the end of another name
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, struct: str, members: tuple[str, ...], complaint: str) -> None:
    made = Blob()
    made.struct("pair", 4, ("first", made.number(), 0))
    with pytest.raises(BtfError, match=complaint):
        made.read(tmp_path).offset(struct, *members)


def refused(data: bytes) -> str:
    """What is said of a file that holds `data`; "" where its struct `pair` can be read all the same."""
    said = ""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vmlinux"
        file.write_bytes(data)
        try:
            btf = Btf(file)
            btf.size("pair")
            btf.offset("pair", "first")
        except BtfError as error:
            said = str(error)
    assert "\n" not in said
    return said


def sample() -> bytes:
    made = Blob()
    number = made.number()
    inner = made.union("", 8, ("inner", number, 0))
    made.struct("pair", 16, ("", inner, 64), ("first", number, 0))
    return made.whole()


@pytest.mark.parametrize("data", [b"", b"\x9f", b"no BTF at all", bytes(100), b"\x7fELF" + bytes(100), sample()[:24]])
def test_no_btf_is_one_line(data: bytes) -> None:
    assert refused(data)


@pytest.mark.parametrize("length", range(len(sample()) - 1))
def test_a_cut_file_is_one_line(length: int) -> None:
    refused(sample()[:length])


@given(data=st.data())
@settings(max_examples=500)
def test_a_damaged_file_is_one_line(data: st.DataObject) -> None:
    damaged = bytearray(sample())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    refused(bytes(damaged))


@given(noise=st.binary(max_size=400))
def test_noise_behind_a_true_header_is_one_line(noise: bytes) -> None:
    third = len(noise) // 3 * 2
    refused(pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, third, third, len(noise) - third) + noise)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="CONFIG_DEBUG_INFO_BTF"):
        Btf(tmp_path / "vmlinux")


def test_a_folder_is_no_btf(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match="not readable as BTF"):
        Btf(tmp_path)
