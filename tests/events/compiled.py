"""What the C compiler makes of the probes' headers: sizes, offsets and constants, printed by a small program."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

INCLUDE = Path(__file__).resolve().parents[2] / "probes" / "include"

_TYPES = """
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
typedef uint8_t u8; typedef uint16_t u16; typedef uint32_t u32; typedef uint64_t u64; typedef int32_t s32;
"""
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_BODY = re.compile(r"struct (\w+) \{(.*?)\};", re.DOTALL)
_MEMBER = re.compile(r"(struct )?(\w+) (\w+)(?:\[\d+\])?;")


def members(text: str) -> dict[str, list[str]]:
    """struct → its members as C writes them, those of inner structs as `outer.inner`."""
    found: dict[str, list[str]] = {}
    for name, body in _BODY.findall(_COMMENT.sub("", text)):
        found[name] = []
        for inner, kind, member in _MEMBER.findall(body):
            found[name] += [f"{member}.{below}" for below in found[kind]] if inner else [member]
    return found


def run(lines: list[str]) -> dict[str, int]:
    """`lines` are C statements that print `key value` lines."""
    headers = f'#include "{INCLUDE}/events.h"\n#include "{INCLUDE}/state.h"\n'
    source = f"{_TYPES}{headers}int main(void) {{\n" + "\n".join(lines) + "\nreturn 0; }\n"
    with tempfile.TemporaryDirectory() as folder:
        file, program = Path(folder) / "layout.c", Path(folder) / "layout"
        file.write_text(source)
        subprocess.run(["cc", "-std=gnu11", "-Wall", "-Werror", "-o", str(program), str(file)], check=True)
        told = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    return {key: int(value) for key, value in (line.split() for line in told.splitlines())}


def layouts(text: str) -> dict[str, int]:
    """`struct` → its size; `struct.member` → its offset; `struct.member#` → its size."""
    lines = []
    for struct, names in members(text).items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        for name in names:
            lines.append(f'printf("{struct}.{name} %zu\\n", offsetof(struct {struct}, {name}));')
            lines.append(f'printf("{struct}.{name}# %zu\\n", sizeof(((struct {struct} *)0)->{name}));')
    return run(lines)


def constants(names: list[str]) -> dict[str, int]:
    return run([f'printf("{name} %d\\n", (int){name});' for name in names])
