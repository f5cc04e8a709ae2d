"""Pins and links of the generation that acts: each is there, is the object that was pinned, and does what it did.

Every object is held open: a pin that is removed takes nothing along while the core lives, and is made again. One read
of the folder tells names and inodes; the object behind a pin's inode never changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from sensor.bpf import attach, libbpf
from sensor.bpf.libbpf import LinkInfo
from sensor.bpf.objects import Generation, Handle
from sensor.bpf.programs import PROGRAMS
from sensor.errors import PinfoldError, RefusedError

_ATTACH = {program.name: program.attach for program in PROGRAMS}
AT_ONCE = 512  # links asked about, a second


class Found(Struct, frozen=True):
    """Something that is not as it was; `repaired` is empty, or why it could not be."""

    what: str  # link, pin
    text: str
    repaired: str


class _Link(Struct):
    descriptor: int
    inode: int
    info: LinkInfo
    program: str


class Pins:
    """`folders()` tells the cgroups that hold programs now: id → path; a link of another may go."""

    def __init__(self, generation: Generation, handle: Handle) -> None:
        self._generation = generation
        self._folder = generation.folder
        self._control = (generation.folder.parent / "control", handle.descriptor)
        self._programs = {name: libbpf.object_id(fd) for name, fd in generation.programs.items()}
        self._objects = {f"map-{name}": fd for name, fd in generation.maps.items()}
        self._objects |= {f"program-{name}": fd for name, fd in generation.programs.items()}
        self._inodes: dict[str, int] = {}
        self._links: dict[str, _Link] = {}
        self._turn = 0

    @property
    def links(self) -> int:
        return len(self._links)

    def verify(self, folders: dict[int, str]) -> list[Found]:
        """Repairs what it finds. Our own changes since the last time are taken in."""
        found = list(self._base())
        there = self._listed()
        whole = there is not None
        if there is None:
            repaired = self._make_folder()
            there = self._listed() or {}
        self._forget(folders)
        missing = [*self._pinned(there), *self._links_missing(there)]
        if not whole:  # one thing was done, and it is told once
            repaired = repaired or next((each.repaired for each in missing if each.repaired), "")
            missing = [Found("pin", "the folder of the pins was removed", repaired)]
        found += missing
        found += self._links_new(there, folders)
        found += self._links_changed(folders)
        return found

    def close(self) -> None:
        for link in self._links.values():
            os.close(link.descriptor)
        self._links.clear()

    def _listed(self) -> dict[str, int] | None:
        try:
            with os.scandir(self._folder) as entries:
                return {entry.name: entry.inode() for entry in entries}
        except OSError:
            return None

    def _make_folder(self) -> str:
        try:
            self._folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            return error.strerror or "the folder cannot be made"
        return ""

    # Maps and programs.

    def _base(self) -> Iterator[Found]:
        path, descriptor = self._control
        try:
            inode = path.stat().st_ino
        except OSError:
            yield Found("pin", "the pin of the control map was removed", self._pin(path, descriptor, make=True))
            return
        if inode != self._inodes.get("control"):
            if self._is(path, descriptor):
                self._inodes["control"] = inode
            else:
                yield Found("pin", "the pin of the control map is another object's", self._replace(path, descriptor))

    def _pinned(self, there: dict[str, int]) -> Iterator[Found]:
        for name, descriptor in self._objects.items():
            inode = there.get(name)
            if inode is not None and inode == self._inodes.get(name):
                continue
            path = self._folder / name
            if inode is None:
                yield Found("pin", f"the pin {name} was removed", self._pin(path, descriptor))
            elif self._is(path, descriptor):
                self._inodes[name] = inode
            else:
                yield Found("pin", f"the pin {name} is another object's", self._replace(path, descriptor))

    def _is(self, path: Path, descriptor: int) -> bool:
        try:
            opened = libbpf.get(path)
        except RefusedError:
            return False
        try:
            return libbpf.object_id(opened) == libbpf.object_id(descriptor)
        finally:
            os.close(opened)

    def _pin(self, path: Path, descriptor: int, *, make: bool = False) -> str:
        try:
            if make:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            libbpf.pin(descriptor, path)
        except (RefusedError, OSError) as error:
            return str(error)
        return ""

    def _replace(self, path: Path, descriptor: int) -> str:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            return str(error)
        return self._pin(path, descriptor)

    # Links.

    def _forget(self, folders: dict[int, str]) -> None:
        """Of cgroups that are gone, or hold no sandboxes any more."""
        for name in list(self._links):
            cgroup_id = _cgroup_of(name)
            if cgroup_id and cgroup_id not in folders:
                os.close(self._links.pop(name).descriptor)

    def _links_missing(self, there: dict[str, int]) -> Iterator[Found]:
        for name, link in list(self._links.items()):
            inode = there.get(name)
            if inode == link.inode:
                continue
            path = self._folder / name
            if inode is not None and self._is(path, link.descriptor):
                link.inode = inode
                continue
            gone = "was removed" if inode is None else "is another object's"
            text = f"the pin of the link {name.removeprefix('link-')} {gone}"
            yield Found("link", text, self._replace(path, link.descriptor))
            there.pop(name, None)
            link.inode = self._inode(path)

    def _links_new(self, there: dict[str, int], folders: dict[int, str]) -> Iterator[Found]:
        """Made by ourselves since, it must be of our program; else it is made anew."""
        for name, inode in there.items():
            if not name.startswith("link-") or name in self._links:
                continue
            program = name.removeprefix("link-").partition("-")[0]
            cgroup_id = _cgroup_of(name)
            if program not in self._programs or (cgroup_id and cgroup_id not in folders):
                continue
            try:
                descriptor = libbpf.get(self._folder / name)
            except RefusedError:
                continue  # gone again
            told = libbpf.link_info(descriptor)
            self._links[name] = _Link(descriptor, inode, told, program)
            if told.program_id != self._programs[program] or told.cgroup_id != cgroup_id:
                yield self._anew(name, "was of another program or cgroup", folders)

    def _links_changed(self, folders: dict[int, str]) -> Iterator[Found]:
        names = list(self._links)
        chosen = names[self._turn : self._turn + AT_ONCE]
        self._turn = self._turn + AT_ONCE if self._turn + AT_ONCE < len(names) else 0
        for name in chosen:
            link = self._links[name]
            told = libbpf.link_info(link.descriptor)
            if told == link.info:
                continue
            cgroup_id = _cgroup_of(name)
            if cgroup_id and not _lives(folders.get(cgroup_id), cgroup_id):
                continue  # the cgroup went, and detached it
            changed = "was detached" if cgroup_id and not told.cgroup_id else "has another program"
            yield self._anew(name, changed, folders)

    def _anew(self, name: str, changed: str, folders: dict[int, str]) -> Found:
        """Attached and pinned as at first."""
        link = self._links.pop(name)
        os.close(link.descriptor)
        path = self._folder / name
        text = f"the link {name.removeprefix('link-')} {changed}"
        cgroup_id = _cgroup_of(name)
        try:
            path.unlink(missing_ok=True)
            if cgroup_id:
                attach.attach_cgroup(self._generation, folders[cgroup_id])
            else:
                attach.attach_tracepoints(self._generation)
            descriptor = libbpf.get(path)
        except (PinfoldError, OSError) as error:
            return Found("link", text, str(error))
        self._links[name] = _Link(descriptor, self._inode(path), libbpf.link_info(descriptor), link.program)
        return Found("link", text, "")

    def _inode(self, path: Path) -> int:
        try:
            return path.stat().st_ino
        except OSError:
            return 0


def _cgroup_of(name: str) -> int:
    """`link-on_connect4-123` → 123; of a tracepoint's 0."""
    number = name.removeprefix("link-").partition("-")[2]
    return int(number) if number.isdecimal() else 0


def _lives(path: str | None, cgroup_id: int) -> bool:
    try:
        return path is not None and os.stat(path).st_ino == cgroup_id
    except OSError:
        return False
