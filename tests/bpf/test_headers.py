"""The text from which the probes learn where kernel members stand."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from sensor.bpf import headers, programs
from sensor.bpf.btf import Btf
from sensor.errors import BtfError
from tests.bpf.blob import Blob

PLACED = {**headers.MEMBERS, **headers.UNIX_MEMBERS}


def kernel(folder: Path, *, without: str = "", oldest: bool = False) -> Btf:
    """A kernel in which every member that the probes read stands, at an offset of its own."""
    made = Blob()
    number = made.number()
    for struct, members in PLACED.items():
        names = [(m,) if isinstance(m, str) else m for m in members]
        chosen = [name[-1 if oldest else 0] for name in names]
        placed = [(m, number, 32 * (at + 1)) for at, m in enumerate(chosen) if f"{struct}.{m}" != without]
        made.struct(struct, 4 * len(chosen) + 4, *placed)
    return made.read(folder)


def test_every_member_is_told_by_its_newest_name(tmp_path: Path) -> None:
    for oldest in (False, True):
        found = headers.offsets(kernel(tmp_path, oldest=oldest), unix=True)
        assert found["task_struct.mm"] == 4
        assert found["task_struct.start_boottime"] == 24
        assert len(found) == sum(len(members) for members in PLACED.values())


def test_the_unix_members_are_asked_for_only_where_they_are_used(tmp_path: Path) -> None:
    btf = kernel(tmp_path, without="bpf_sock_addr_kern.uaddr")
    assert not any(name.startswith("bpf_sock_addr_kern") for name in headers.offsets(btf, unix=False))
    with pytest.raises(BtfError, match=r"bpf_sock_addr_kern has no member uaddr"):
        headers.offsets(btf, unix=True)


def test_a_missing_member_is_named(tmp_path: Path) -> None:
    with pytest.raises(BtfError, match=r"struct task_struct has no member real_parent"):
        headers.offsets(kernel(tmp_path, without="task_struct.real_parent"), unix=False)


def test_an_offset_can_be_shifted_on_purpose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = headers.offsets(kernel(tmp_path), unix=True)
    monkeypatch.setenv(headers.SHIFT_VARIABLE, "mm_struct.arg_end")
    assert headers.offsets(kernel(tmp_path), unix=True) == {**true, "mm_struct.arg_end": true["mm_struct.arg_end"] + 8}


def test_the_definitions_are_what_the_probes_ask_for(tmp_path: Path) -> None:
    btf = kernel(tmp_path)
    defined = set(re.findall(r"#define (PF_\w+) \d+", headers.defines(headers.offsets(btf, unix=True), btf)))
    text = programs.sources()
    used = {f"PF_AT_{a}__{b}" for a, b in re.findall(r"\bREAD\([^;]*?, (\w+), (\w+)\)", text)}
    used |= set(re.findall(r"\bPF_(?:AT|SIZE)_[a-z]\w+", text))
    assert defined == used - {"PF_AT_type__member"}  # the macro's own definition


def test_the_tree_compiles_as_bcc_includes_it(tmp_path: Path) -> None:
    headers.write_tree(tmp_path, kernel(tmp_path), unix=True)
    source = tmp_path / "all.c"
    names = [path.relative_to(tmp_path / "include") for path in (tmp_path / "include").rglob("*.h")]
    assert len(names) == len(headers._EMPTY) + 2
    kconfig = tmp_path / "include" / "linux" / "kconfig.h"
    source.write_text("".join(f"#include <{name}>\n" for name in names) + "int at = PF_AT_mm_struct__arg_start;\n")
    command = ["cc", "-nostdinc", "-ffreestanding", "-fsyntax-only", "-w", "-I", str(tmp_path / "include")]
    subprocess.run([*command, "-include", str(kconfig), str(source)], check=True)
