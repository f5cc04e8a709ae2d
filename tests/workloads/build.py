"""Compiles the workloads of this folder with the host's C compiler.

`build(into)` compiles all of them below `into` and returns the folder that holds the programs. The
folder's name is a digest of sources and compiler flags: a second call compiles nothing, and a
changed source never meets an old program. `into` must belong to the caller: tests run these as root.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


def programs() -> list[str]:
    """The workloads' names, sorted."""
    return sorted(source.stem for source in SOURCES.glob("*.c"))


def build(into: Path, compiler: str = "cc") -> Path:
    """Raises FileNotFoundError without a compiler, CalledProcessError where a source does not compile."""
    target = into / f"workloads-{_digest(compiler)}"
    if target.is_dir():
        return target
    into.mkdir(parents=True, exist_ok=True, mode=0o700)
    half_done = Path(tempfile.mkdtemp(prefix="building-", dir=into))
    try:
        for name in programs():
            command = [compiler, *FLAGS, "-o", str(half_done / name), str(SOURCES / f"{name}.c")]
            subprocess.run(command, check=True)
        half_done.chmod(0o755)  # workloads also run as another user
        # A rename is the only step that others see: two tests that build at once cannot run half a program.
        os.rename(half_done, target)
    except OSError:
        if not target.is_dir():  # else: another process was first, with the same digest
            raise
    finally:
        shutil.rmtree(half_done, ignore_errors=True)
    return target


def _digest(compiler: str) -> str:
    digest = hashlib.sha256("\0".join((compiler, *FLAGS)).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(b"\0" + source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
