"""Denied programs as the kernel's trie has them, asked as the probes ask it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.bpf.state import SIZES, ExecutableKey
from sensor.config import Config, SandboxClass
from sensor.configexecutables import DeniedExecutables
from sensor.events.layouts import ExecDenied
from sensor.respond.executables import LISTED, SHELL, denied_execs, executable_entries, walked

NUMBERS = {"default": 0, "agents": 3}


def config(*paths: str, shells: bool = False) -> Config:
    settings = SandboxClass(
        denied_executables=DeniedExecutables(paths=paths), shells_on_sockets="deny" if shells else "allow"
    )
    return Config(classes={"agents": settings})


def found(entries: dict[bytes, bytes], number: int, image: str) -> int:
    """The longest prefix among the entries: what BPF_MAP_TYPE_LPM_TRIE answers."""
    names = b"".join(name.encode() + b"\0" for name in reversed([part for part in image.split("/") if part]))
    asked = number.to_bytes(4, "big") + names[:120].ljust(120, b"\0")
    best, value = 0, 0
    for packed, bits in entries.items():
        key = ExecutableKey.unpack(packed)
        data = packed[4:]
        size = key.prefix // 8
        if asked[:size] == data[:size] and size > best:
            best, value = size, int.from_bytes(bits, "little")
    return value


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("/usr/bin/nc", LISTED),
        ("/opt/x/nc", LISTED),
        ("/nc", LISTED),
        ("/usr/bin/nc2", 0),
        ("/usr/bin/2nc", 0),
        ("/usr/bin/nc/x", 0),
        ("/usr/bin/socat", LISTED),
        ("/usr/local/bin/socat", 0),
        ("/rootfs/usr/bin/socat", 0),
        ("/bin/bash", SHELL),
        ("/usr/bin/bash", SHELL | LISTED),
        ("/usr/bin/python3", 0),
    ],
)
def test_a_name_anywhere_and_a_whole_path(image: str, expected: int) -> None:
    entries = executable_entries(config("nc", "/usr/bin/socat", "/usr/bin/bash", shells=True), NUMBERS)
    assert found(entries, 3, image) == expected
    assert found(entries, 0, image) == 0
    assert all(len(key) == SIZES["pf_executable_key"] for key in entries)


NAMES = st.text("ab", min_size=1, max_size=3)
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))


@given(st.lists(st.one_of(NAMES, PATHS), max_size=12, unique=True), PATHS)
def test_the_trie_says_what_the_list_says(paths: list[str], image: str) -> None:
    entries = executable_entries(config(*paths), NUMBERS)
    wanted = any(path == image if path.startswith("/") else path == image.rpartition("/")[2] for path in paths)
    assert bool(found(entries, 3, image) & LISTED) == wanted


def test_the_longest_path_fits() -> None:
    assert len(walked("/" + "x" * 118)) == 120


def test_the_reasons_are_bits() -> None:
    every = SandboxClass(
        denied_executables=DeniedExecutables(paths=("nc",), memfd=True, deleted=True, written_inside=True),
        shells_on_sockets="deny",
    )
    wanted = (ExecDenied.LISTED, ExecDenied.MEMFD, ExecDenied.DELETED, ExecDenied.WRITTEN, ExecDenied.SHELL)
    assert denied_execs(every) == sum(1 << reason for reason in wanted)
    assert denied_execs(SandboxClass()) == 0
