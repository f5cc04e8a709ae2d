"""Pinned objects as far as they are folders and names; the kernel's part is in tests/live/."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.bpf import maps, objects, programs
from sensor.bpf.maps import Sizes
from sensor.errors import HostError, LoadError
from sensor.events.layouts import ABI

SIZES = Sizes(1 << 20, 100, 1000, 500, 50)


def test_what_is_no_bpf_filesystem_is_refused_with_the_command_to_mount_one(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(HostError, match=f"mount -t bpf bpf {place}"):
            objects.ensure_base(str(place), "pinfold")
    assert list(tmp_path.iterdir()) == []


def test_the_abi_is_another_with_every_size_and_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = objects.abi_digest(SIZES, ("connect_unix",))
    assert objects.abi_digest(SIZES, ("connect_unix",)) == plain
    others = [Sizes(*(value + (n == at) for n, value in enumerate((1 << 20, 100, 1000, 500, 50)))) for at in range(5)]
    digests = {objects.abi_digest(sizes, ("connect_unix",)) for sizes in others}
    digests |= {objects.abi_digest(SIZES, ()), objects.abi_digest(SIZES, ("connect_unix", "get_retval"))}
    monkeypatch.setattr("platform.release", lambda: "6.99")
    digests.add(objects.abi_digest(SIZES, ("connect_unix",)))
    assert len(digests | {plain}) == 9
    assert all(len(digest) == 16 and "-" not in digest for digest in digests)


def test_the_abi_is_another_with_another_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    before = objects.abi_digest(SIZES, ())
    text = programs.sources()
    monkeypatch.setattr(programs, "sources", lambda: text + "\n")
    assert objects.abi_digest(SIZES, ()) != before


def test_generations_are_told_by_their_folders_newest_first(tmp_path: Path) -> None:
    for name in ("gen-1f-1-abc", "gen-a0-2-def", "tmp-ff", "control"):
        (tmp_path / name).mkdir()
    assert objects.generations(tmp_path) == [
        (tmp_path / "gen-a0-2-def", 0xA0, 2, "def"),
        (tmp_path / "gen-1f-1-abc", 0x1F, 1, "abc"),
    ]


@pytest.mark.parametrize("name", ["gen-", "gen-1", "gen-1-2", "gen-x-1-abc", "gen-1-x-abc", "gen-1-1-a-b"])
def test_a_folder_of_another_name_is_nobodys_generation(tmp_path: Path, name: str) -> None:
    """A later version may name them otherwise, and may be gone back from."""
    (tmp_path / name).mkdir()
    assert objects.generations(tmp_path) == []


def test_nothing_to_take_over_in_an_empty_folder(tmp_path: Path) -> None:
    assert objects.take_over(tmp_path, "abc", SIZES, ()) is None
    assert objects.arm(str(tmp_path), "absent", True) is False


def pinned(folder: Path) -> Path:
    """A generation with every name that it should have, but no file of it is a pin."""
    folder.mkdir()
    for name in maps.definitions(SIZES):
        (folder / f"map-{name}").write_text("no pin")
    for program in programs.chosen(frozenset()):
        (folder / f"program-{program.name}").write_text("no pin")
    return folder


@pytest.mark.parametrize("missing", ["", "map-events", "program-on_device"])
def test_a_generation_that_cannot_be_opened_is_not_taken_over(tmp_path: Path, missing: str) -> None:
    folder = pinned(tmp_path / f"gen-1-{ABI}-abc")
    other = pinned(tmp_path / f"gen-2-{ABI}-other")
    if missing:
        (folder / missing).unlink()
    assert objects.take_over(tmp_path, "abc", SIZES, ()) is None
    assert not folder.exists()
    assert other.exists()


def test_removing_touches_nothing_that_is_no_bpf_filesystem(tmp_path: Path) -> None:
    kept = tmp_path / "pinfold" / "file"
    kept.parent.mkdir()
    kept.write_text("an operator's")
    objects.remove(str(tmp_path), "pinfold")
    assert kept.exists()


@pytest.mark.parametrize(
    ("child", "complaint"),
    [
        ("import sys; sys.exit(70)", "the compiler died; its last line: none"),
        ("import sys; sys.exit('LLVM ERROR: no such target')", "its last line: LLVM ERROR: no such target"),
        ('print(\'{"error": "no bcc"}\')', "no bcc"),
    ],
)
def test_a_compiler_that_fails_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, complaint: str
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/usr/bin/env python3\n{child}\n")
    compiler.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(compiler))
    with pytest.raises(LoadError) as error:
        objects.build(tmp_path, "abc", SIZES, (), str(tmp_path / "cache"))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert objects.generations(tmp_path) == []
