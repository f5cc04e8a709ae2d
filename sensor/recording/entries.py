"""What a recording consists of, in the order in which the core met it.

An answer stands before the entry that it was asked for, so that whoever reads in order has it in time.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct as PackedStruct
from typing import Any

import msgspec
from msgspec import Struct

from sensor.enrich.enricher import Enricher
from sensor.enrich.processes import EntryProgram, Process
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.events.activity import AnyActivity, SandboxChange

RECORD, TICK, ANSWER, KNOWN, TOLD, END = range(1, 7)

PLACE = PackedStruct("<QQ")  # of a record: generation of its ring, position
MOMENT = PackedStruct("<QQ")  # of a tick: CLOCK_MONOTONIC, UTC
HEADER = PackedStruct("<8xQQ")  # of a record, in the header that all have: its time, its sandbox
AT_ONCE = 256  # sandboxes or processes in one entry: 4 MiB where each has all that it may


class KnownSandbox(Struct, frozen=True, array_like=True):
    id: int
    path: bytes
    class_: str
    pattern_class: str
    name: str
    runtime: str
    labels: dict[str, str]
    attributes: dict[str, str]
    certain: bool
    gpu_granted: bool
    granted: tuple[str, ...]
    born_ns: int
    ended_ns: int


class KnownProcess(Struct, frozen=True, array_like=True):
    """`entry`: (tgid, start, image, command line, settled)."""

    tgid: int
    start_ns: int
    exec_id: int
    sandbox_id: int
    cgroup_id: int
    parent_tgid: int
    parent_start_ns: int
    entry: tuple[int, int, str, str, bool]
    parent_image: str
    guid: str
    image: str
    image_file: tuple[int, int]
    command_line: str
    cwd: str
    user: str
    raw: dict[str, bytes] | None
    executed_inside: bool
    brought_along: bool = False  # of an older recording, which has none: nobody is excused


class Known(Struct, frozen=True):
    """What the core knew at one moment and no record before tells."""

    sandboxes: list[KnownSandbox]
    processes: list[KnownProcess]
    timeline: tuple[int, int, int]  # offset, start, end
    users: dict[int, str]
    guarded: dict[int, str]
    resolvers: tuple[str, ...]


class End(Struct, frozen=True):
    reason: str
    utc_ns: int
    unrecordable: int  # answers that could not be written


def known(enricher: Enricher, only: frozenset[int]) -> Iterator[bytes]:
    """`only` of these sandboxes; empty: of all. In pieces that fit a frame, however many there are."""
    sandboxes = [_sandbox(one) for one in enricher.sandboxes.by_id.values() if not only or one.id in only]
    living = [p for p in enricher.processes.current.values() if not p.exited and (not only or p.sandbox_id in only)]
    # Parents before their children.
    living.sort(key=lambda process: (process.start_ns, process.tgid))
    rest = (
        enricher.timeline.state,
        dict(enricher.users.known),
        dict(enricher.escapes.guarded),
        tuple(sorted(enricher.dns.resolvers)),
    )
    for at in range(0, max(1, len(sandboxes)), AT_ONCE):
        yield msgspec.msgpack.encode(Known(sandboxes[at : at + AT_ONCE], [], *rest))
    for at in range(0, len(living), AT_ONCE):
        yield msgspec.msgpack.encode(Known([], [_process(one) for one in living[at : at + AT_ONCE]], *rest))


def restore(enricher: Enricher, found: Known) -> None:
    """Into one that knows less. What is known already stays as it is."""
    registry, table = enricher.sandboxes, enricher.processes
    for one in found.sandboxes:
        registry.by_id.setdefault(one.id, _made(one))
    for each in found.processes:
        if table.known(each.tgid, each.start_ns) is None:
            parent = table.known(each.parent_tgid, each.parent_start_ns) if each.parent_start_ns else None
            table.found(_revived(each, parent))
    enricher.timeline.state = found.timeline
    enricher.users.known.update(found.users)
    enricher.escapes.guarded = found.guarded
    enricher.dns.resolvers = frozenset(found.resolvers)


def told(activity: AnyActivity | SandboxChange) -> bytes:
    return msgspec.msgpack.encode((activity.category, activity))


def plain(value: Any) -> Any:
    """Of an answer, what msgpack can hold: paths are bytes where they are no Unicode."""
    if isinstance(value, str):
        return value if value.isascii() else _text(value)
    if isinstance(value, Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {plain(key): plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value


def _text(value: str) -> str | bytes:
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogateescape")
    return value


def _sandbox(one: Sandbox) -> KnownSandbox:
    return KnownSandbox(
        one.id, one.path.encode("utf-8", "surrogateescape"), one.class_, one.pattern_class, one.name, one.runtime,
        one.labels, one.attributes, one.certain, one.gpu_granted, one.granted, one.born_ns, one.ended_ns,
    )  # fmt: skip


def _made(one: KnownSandbox) -> Sandbox:
    path = one.path.decode("utf-8", "surrogateescape")
    return Sandbox(
        one.id, path, one.class_, one.name, one.runtime, one.labels, one.born_ns, one.gpu_granted, one.granted,
        one.certain, one.pattern_class, one.attributes, ended_ns=one.ended_ns,
    )  # fmt: skip


def _process(one: Process) -> KnownProcess:
    entry = one.entry
    return KnownProcess(
        one.tgid, one.start_ns, one.exec_id, one.sandbox_id, one.cgroup_id, one.parent_tgid,
        one.parent.start_ns if one.parent is not None else 0,
        (entry.tgid, entry.start_ns, entry.image, entry.command_line, entry.settled),
        one.parent_image, one.guid, one.image, one.image_file, one.command_line, one.cwd, one.user, one.raw,
        one.executed_inside, one.brought_along,
    )  # fmt: skip


def _revived(one: KnownProcess, parent: Process | None) -> Process:
    same = parent is not None and parent.sandbox_id == one.sandbox_id and parent.entry.tgid == one.entry[0]
    entry = parent.entry if same and parent is not None else EntryProgram(*one.entry)
    return Process(
        one.tgid, one.start_ns, one.exec_id, one.sandbox_id, one.cgroup_id, one.parent_tgid, parent, entry,
        one.parent_image, one.guid, one.image, one.image_file, one.command_line, one.cwd, one.user, one.raw,
        one.executed_inside, one.brought_along,
    )  # fmt: skip
