"""What the maps must say: those that only we write, whole; of those that the probes write too, what is ours in them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from struct import pack

from msgspec.structs import asdict, replace

from sensor.bpf import libbpf
from sensor.bpf.objects import Generation, Handle
from sensor.bpf.programs import PROGRAMS
from sensor.bpf.state import SIZES, Control, Sandbox
from sensor.bpf.tables import Tables
from sensor.errors import PinfoldError
from sensor.guard.pins import Found
from sensor.guard.written import Difference, Followed

# Written by nobody but the core. Of egress_names the kernel may drop what was not used for long.
OURS = (
    "classes",
    "device_classes",
    "char_classes",
    "steps",
    "automaton",
    "egress",
    "executables",
    "device_grants",
    "guarded",
    "wanted_calls",
)
EVICTED = ("egress_names", "images")
KERNELS_WORDS = ("untracked",)  # of the control entry
SANDBOXES_AT_ONCE = 256
_ZERO = bytes(4)


class Maps:
    """`disarmed()` is asked where the control entry says so and we did not."""

    def __init__(self, generation: Generation, handle: Handle, tables: Tables, disarmed: Callable[[], bool]) -> None:
        self._generation = generation
        self._handle = handle
        self._tables = tables
        self._disarmed = disarmed
        self._followed = [Followed(name, generation.maps[name]) for name in OURS if name in generation.maps]
        self._followed += [
            Followed(name, generation.maps[name], evicts=True) for name in EVICTED if name in generation.maps
        ]
        self._control = libbpf.follow(handle.descriptor)
        self._tail_calls = [
            (name, place, libbpf.object_id(generation.programs[program.name]), generation.programs[program.name])
            for program in PROGRAMS
            if program.called_by is not None and program.name in generation.programs
            for name, place in (program.called_by,)
        ]
        self._classes: dict[int, int] = {}  # sandbox id → class, as first seen
        self._watched: dict[int, bytes] = {}  # id of a parent of sandboxes → its entry, as first seen
        self._begun = False

    def begin(self) -> None:
        """After the configuration was written and this generation acts."""
        for each in self._followed:
            each.adopt()
        self._control.setdefault(_ZERO, self._handle.read().pack())
        self._begun = True

    def reloaded(self) -> None:
        """Classes have other numbers, other parents are watched."""
        self._classes.clear()
        self._watched.clear()

    def verify(self, folders: dict[int, str], sandboxes: list[tuple[int, str]]) -> Iterator[tuple[Found, Difference]]:
        """`folders`: cgroups that hold sandboxes, id → path; `sandboxes`: (id, path) of some that live."""
        if not self._begun:
            return
        for each in self._followed:
            for difference in each.differences():
                yield _found(difference, each.repair(difference)), difference
        yield from self._verify_tail_calls()
        yield from self._verify_control()
        yield from self._verify_watch(folders)
        yield from self._verify_sandboxes(sandboxes)

    def close(self) -> None:
        for each in self._followed:
            libbpf.follow_no_more(each.descriptor)
        libbpf.follow_no_more(self._handle.descriptor)

    def _verify_tail_calls(self) -> Iterator[tuple[Found, Difference]]:
        """A map of programs answers with their ids, and is written with descriptors."""
        for name, place, number, program in self._tail_calls:
            key = pack("<I", place)
            found = libbpf.lookup(self._generation.maps[name], key, 4)
            expected = number.to_bytes(4, sys.byteorder)
            if found != expected:
                repaired = _done(
                    lambda name=name, key=key, program=program: libbpf.update(  # type: ignore[misc]
                        self._generation.maps[name], key, program.to_bytes(4, sys.byteorder)
                    )
                )
                difference = Difference(name, key, expected, found)
                yield _found(difference, repaired), difference

    def _verify_control(self) -> Iterator[tuple[Found, Difference]]:
        expected, found = Control.unpack(self._control[_ZERO]), self._handle.read()
        ours = replace(expected, **{name: getattr(found, name) for name in KERNELS_WORDS})
        if found.armed > ours.armed or (found.armed < ours.armed and self._disarmed()):
            ours = replace(ours, armed=found.armed)  # the operator's hand; the daemon follows the marker
        if found == ours:
            return
        words = ", ".join(name for name, value in asdict(ours).items() if getattr(found, name) != value)
        difference = Difference("control", _ZERO, ours.pack(), found.pack())
        repaired = _done(lambda: libbpf.update(self._handle.descriptor, _ZERO, ours.pack()))
        yield Found("control", f"the control entry was changed ({words})", repaired), difference

    def _verify_watch(self, folders: dict[int, str]) -> Iterator[tuple[Found, Difference]]:
        """Without its entry no sandbox is born below a parent."""
        for cgroup_id, path in folders.items():
            key = pack("<Q", cgroup_id)
            found = libbpf.lookup(self._generation.maps["watch"], key, SIZES["pf_watch"])
            before = self._watched.setdefault(cgroup_id, found or b"")
            if found == before or not before or not _is_there(path, cgroup_id):
                continue
            repaired = _done(
                lambda key=key, before=before: libbpf.update(  # type: ignore[misc]
                    self._generation.maps["watch"], key, before
                )
            )
            difference = Difference("watch", key, before, found)
            yield _found(difference, repaired), difference
        for gone in self._watched.keys() - folders.keys():
            del self._watched[gone]

    def _verify_sandboxes(self, sandboxes: list[tuple[int, str]]) -> Iterator[tuple[Found, Difference]]:
        """Its entry is there and of its class. One that never had room in the map is not looked for."""
        for sandbox_id, path in sandboxes:
            key = pack("<Q", sandbox_id)
            value = libbpf.lookup(self._generation.maps["sandboxes"], key, SIZES["pf_sandbox"])
            found = Sandbox.unpack(value).class_id if value is not None else None
            if found is not None and sandbox_id not in self._classes:
                self._classes[sandbox_id] = found
            before = self._classes.get(sandbox_id)
            if before is None or found == before or not _is_there(path, sandbox_id):
                continue
            repaired = "" if self._tables.add_sandbox(sandbox_id, before) else "the map is full"
            text = "was removed" if found is None else "is of another class"
            difference = Difference("sandboxes", key, pack("<I", before), None if found is None else pack("<I", found))
            yield Found("sandbox", f"the entry of the sandbox {sandbox_id} {text}", repaired), difference

    def forget_sandbox(self, sandbox_id: int) -> None:
        self._classes.pop(sandbox_id, None)


def _found(difference: Difference, repaired: str) -> Found:
    if difference.found is None:
        what = "lacks an entry"
    elif difference.expected is None:
        what = "has an entry that is not ours"
    else:
        what = "has an entry that was changed"
    return Found("map", f"the map {difference.map} {what}", repaired)


def _done(work: Callable[[], object]) -> str:
    try:
        work()
    except PinfoldError as error:
        return str(error)
    return ""


def _is_there(path: str, cgroup_id: int) -> bool:
    """Asked after the map: what is still there now was there then."""
    try:
        return os.stat(path).st_ino == cgroup_id
    except OSError:
        return False
