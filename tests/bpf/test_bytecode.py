"""Compiled programs kept for the next start: nothing but the descriptors and the generation's number changes."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from sensor.bpf import bytecode
from sensor.errors import LoadError

GENERATION = 0x1234_5678_9ABC_DEF0
ABI = "0123456789abcdef"


def wide(value: int, source: int = 0) -> bytes:
    return struct.pack("=BBhIBBhI", 0x18, source << 4 | 1, 0, value & 0xFFFFFFFF, 0, 0, 0, value >> 32)


def other(code: int, immediate: int) -> bytes:
    return struct.pack("=BBhI", code, 1, 0, immediate)


CODE = wide(7, 1) + other(0xB7, 7) + wide(GENERATION) + wide(7) + other(0x18 + 0x60, 7) + wide(9, 1) + other(0x95, 0)


def test_only_maps_and_the_generation_are_written_anew() -> None:
    kept = bytecode.program("on_x", CODE, {"events": 7, "control": 9}, GENERATION)
    assert [place.name for place in kept.places] == ["events", "", "control"]
    assert bytecode.instructions(kept, {"events": 7, "control": 9}, GENERATION) == CODE
    moved = bytecode.instructions(kept, {"events": 21, "control": 22}, 0xFFFF_FFFF_0000_0001)
    expected = wide(21, 1) + other(0xB7, 7) + wide(0xFFFF_FFFF_0000_0001) + wide(7) + other(0x78, 7)
    assert moved == expected + wide(22, 1) + other(0x95, 0)


def test_a_map_that_nobody_made_is_refused() -> None:
    with pytest.raises(LoadError, match="descriptor 9"):
        bytecode.program("on_x", CODE, {"events": 7}, GENERATION)


def test_it_is_kept_for_this_version_alone_and_a_bounded_number_of_them(tmp_path: Path) -> None:
    kept = (bytecode.program("on_x", CODE, {"events": 7, "control": 9}, GENERATION),)
    bytecode.write(str(tmp_path), ABI, kept)
    assert bytecode.read(str(tmp_path), ABI) == kept
    assert bytecode.read(str(tmp_path), "fedcba9876543210") == ()
    for number in range(12):
        bytecode.write(str(tmp_path), f"{number:016x}", kept)
        os.utime(tmp_path / f"probes-{number:016x}.cache", (number, 1_000_000_000 + number))
    assert len(list(tmp_path.iterdir())) == bytecode.MOST_FILES
    assert bytecode.read(str(tmp_path), f"{11:016x}") == kept


@pytest.mark.parametrize("spoil", ["mode", "content", "link", "short"])
def test_what_another_could_have_written_is_not_used(
    tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    bytecode.write(str(tmp_path), ABI, (bytecode.program("on_x", CODE, {"events": 7, "control": 9}, GENERATION),))
    (file,) = tmp_path.iterdir()
    if spoil == "mode":
        file.chmod(0o620)
    elif spoil == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-1] + (b"" if spoil == "short" else b"\x01"))
    assert bytecode.read(str(tmp_path), ABI) == ()
    assert "ignoring" in caplog.text
