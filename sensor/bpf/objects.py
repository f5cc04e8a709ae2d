"""The pinned objects: finding those of an earlier run, making new ones beside them, switching, removing.

    <bpffs>/<instance>/control, quarantines            shared by all generations
    <bpffs>/<instance>/gen-<number>-<layout>-<abi>/    map-<name>  program-<name>  link-<program>…

A folder whose abi is ours is taken over as it is. Otherwise a new one is made and attached while the old
one goes on; one word in `control` then says which of them acts. A folder gets its name when it is
complete: what a crash left half made is called tmp-… and is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from sensor.bpf import bytecode, libbpf, maps, pinning, programs
from sensor.bpf.loader import Request, Result, compiled
from sensor.bpf.state import Control
from sensor.errors import HostError, LoadError, PinfoldError, RefusedError
from sensor.events.layouts import ABI

log = logging.getLogger(__name__)

_ZERO = bytes(4)
_BPF_FS_MAGIC = 0xCAFE4A11
_COMPILER_SECONDS = 120
_GENERATION = re.compile(r"gen-([0-9a-f]+)-([0-9]+)-([^-]+)")
_READ_OF_OLDER = frozenset({"map-classes", "map-events", "map-processes", "map-sandboxes"})


class Generation(Struct, frozen=True):
    """One set of programs and maps. `number` is in every event's id, `layout` is the ABI of its records."""

    folder: Path
    number: int
    layout: int
    abi: str
    maps: dict[str, int]
    programs: dict[str, int]

    def close(self) -> None:
        for descriptor in (*self.maps.values(), *self.programs.values()):
            os.close(descriptor)


def base_folder(bpffs: str, instance: str) -> Path:
    return Path(bpffs) / instance


def _is_bpffs(path: str) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * 32)()
    return libc.statfs(os.fsencode(path), buffer) == 0 and buffer[0] == _BPF_FS_MAGIC


def ensure_base(bpffs: str, instance: str) -> Path:
    if not _is_bpffs(bpffs):
        raise HostError(f"{bpffs} is no BPF filesystem: mount -t bpf bpf {bpffs}")
    base = base_folder(bpffs, instance)
    base.mkdir(mode=0o700, exist_ok=True)
    return base


def abi_digest(sizes: maps.Sizes, features: tuple[str, ...]) -> str:
    """Of everything that decides what is in the kernel: probes, layouts, sizes, and the kernel itself."""
    digest = hashlib.sha256(programs.sources().encode())
    here = Path(__file__).parent
    for name in ("headers.py", "maps.py", "programs.py", "loader.py", "pinning.py", "bytecode.py"):
        digest.update((here / name).read_bytes())
    with contextlib.suppress(OSError):  # its build id; without it release and version must do
        digest.update(Path("/sys/kernel/notes").read_bytes())
    digest.update(repr((platform.release(), platform.version(), sizes, features)).encode())
    digest.update(os.environ.get("PINFOLD_TEST_SHIFT_OFFSET", "").encode())
    return digest.hexdigest()[:16]


class Handle:
    """What all generations share: the control entry, which says what acts and whether it may refuse, and the map of
    quarantines."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._shared: dict[str, int] = {}
        self.descriptor = self.shared("control")

    def shared(self, name: str) -> int:
        """A descriptor of one of maps.SHARED, made where it is missing. Raises HostError, RefusedError."""
        if name not in self._shared:
            self._shared[name] = self._open(name)
        return self._shared[name]

    def _open(self, name: str) -> int:
        path, definition = self._base / name, maps.SHARED[name]
        if not path.exists():
            descriptor = maps.create(name, definition)
            libbpf.pin(descriptor, path)
            return descriptor
        descriptor = libbpf.get(path)
        if libbpf.map_value_size(descriptor) != definition.value:
            raise HostError(
                f"{path} is of another version of pinfold, and what it enforces cannot be taken over: "
                f"stop that one, then rm -r {self._base}"
            )
        return descriptor

    def read(self) -> Control:
        data = libbpf.lookup(self.descriptor, _ZERO, maps.CONTROL.value)
        return Control.unpack(data) if data else Control()

    def write(self, **members: int) -> None:
        changed = msgspec.structs.replace(self.read(), **members)
        libbpf.update(self.descriptor, _ZERO, changed.pack())


def generations(base: Path) -> list[tuple[Path, int, int, str]]:
    """(folder, number, layout, abi) of each complete one, newest first."""
    found = []
    for folder in base.glob("gen-*"):
        if parts := _GENERATION.fullmatch(folder.name):
            found.append((folder, int(parts[1], 16), int(parts[2]), parts[3]))
    return sorted(found, key=lambda entry: entry[1], reverse=True)


def _open(folder: Path, number: int, layout: int, abi: str, wanted: frozenset[str] = frozenset()) -> Generation:
    """Raises RefusedError where a pin is missing of `wanted` or cannot be opened."""
    missing = wanted - {pin.name for pin in folder.iterdir()}
    if missing:
        raise RefusedError(f"{folder} lacks the pin {min(missing)}")
    opened: dict[str, dict[str, int]] = {"map": {}, "program": {}}
    for pin in sorted(folder.iterdir()):
        kind, _, name = pin.name.partition("-")
        if kind in opened:
            opened[kind][name] = libbpf.get(pin)
    return Generation(folder, number, layout, abi, opened["map"], opened["program"])


def take_over(base: Path, abi: str, sizes: maps.Sizes, features: tuple[str, ...]) -> Generation | None:
    """The pinned generation of this abi, if there is one. One that is not whole is removed."""
    wanted = {f"map-{name}" for name in maps.definitions(sizes)}
    wanted |= {f"program-{program.name}" for program in programs.chosen(frozenset(features))}
    for folder, number, layout, found in generations(base):
        if found == abi and layout == ABI:
            try:
                return _open(folder, number, layout, found, frozenset(wanted))
            except RefusedError:
                remove_folder(folder)
    return None


def others(base: Path, current: Generation) -> list[Generation]:
    """Older generations, oldest first: their rings may still hold events. Broken ones are removed."""
    found = []
    for folder, number, layout, abi in reversed(generations(base)):
        if folder == current.folder:
            continue
        try:
            found.append(_open(folder, number, layout, abi, _READ_OF_OLDER))
        except RefusedError:
            remove_folder(folder)
    return found


def build(base: Path, abi: str, sizes: maps.Sizes, features: tuple[str, ...], cache: str) -> Generation:
    """Makes and pins a new generation: from what an earlier start compiled into the folder `cache`, else by a compiler
    child. Nothing is attached yet. Raises HostError, LoadError."""
    for left in base.glob("tmp-*"):
        remove_folder(left)
    number = time.time_ns()
    draft = base / f"tmp-{number:x}"
    if not _load_kept(draft, number, sizes, features, bytecode.read(cache, abi)):
        draft.mkdir(mode=0o700)
        bytecode.write(cache, abi, _compile(draft, number, sizes, features))
    folder = base / f"gen-{number:x}-{ABI}-{abi}"
    draft.rename(folder)
    return _open(folder, number, ABI, abi)


def _load_kept(
    draft: Path, number: int, sizes: maps.Sizes, features: tuple[str, ...], kept: tuple[bytecode.Program, ...]
) -> bool:
    if not kept:
        return False
    draft.mkdir(mode=0o700)
    try:
        if pinning.load_kept(draft, draft.parent, number, sizes, frozenset(features), kept):
            return True
    except RefusedError as error:
        log.warning("the probes that were compiled before are not taken, and compiled anew: %s", error)
    remove_folder(draft)
    return False


def _compile(draft: Path, number: int, sizes: maps.Sizes, features: tuple[str, ...]) -> tuple[bytecode.Program, ...]:
    with tempfile.TemporaryDirectory(prefix="pinfold-compiler-") as scratch:
        request = Request(str(draft), number, str(draft.parent), scratch, sizes, features)
        try:
            child = subprocess.run(
                [sys.executable, "-P", "-m", "sensor.bpf.loader"],
                input=msgspec.json.encode(request),
                capture_output=True,
                timeout=_COMPILER_SECONDS,
                check=False,
                env={**os.environ, "PYTHONPATH": _python_path()},
            )
        except subprocess.TimeoutExpired as cause:
            remove_folder(draft)
            raise LoadError(f"the compiler took more than {_COMPILER_SECONDS} s") from cause
        stderr = child.stderr.decode("utf-8", "replace")
        error = "the compiler died; its last line: " + (stderr.strip().splitlines() or ["none"])[-1][:200]
        if child.stdout:
            error = msgspec.json.decode(child.stdout, type=Result).error
        if error or child.returncode:
            remove_folder(draft)
            raise LoadError(error, stderr)
        return compiled(scratch)


def _python_path() -> str:
    """With -P the folder we were started in is no place to import from; our own package must be."""
    ours = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))


def remove_folder(folder: Path) -> None:
    """Unpins: what nothing else holds, the kernel lets go."""
    shutil.rmtree(folder, ignore_errors=True)


def remove(bpffs: str, instance: str) -> None:
    """Everything of an instance: its probes stop here."""
    base = base_folder(bpffs, instance)
    if base.is_dir() and _is_bpffs(bpffs):
        remove_folder(base)


def arm(bpffs: str, instance: str, armed: bool) -> bool:
    """Lift or restore all refusals in the kernel, with or without a daemon. False: nothing is pinned."""
    path = base_folder(bpffs, instance) / "control"
    if not path.exists():
        return False
    Handle(path.parent).write(armed=int(armed))
    return True


def main() -> int:
    import argparse  # noqa: PLC0415 - the core imports this module, and need not hold that one

    parser = argparse.ArgumentParser(prog="sensor.bpf.objects", description="Remove the pins of an instance.")
    parser.add_argument("action", choices=["remove"])
    parser.add_argument("--instance", required=True)
    parser.add_argument("--bpffs", default="/sys/fs/bpf")
    given = parser.parse_args()
    try:
        remove(given.bpffs, given.instance)
    except (PinfoldError, OSError) as error:
        print(f"pinfold: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
