"""The fields that all activities share, in the order of `Activity`: who did it, and where."""

from __future__ import annotations

from sensor.enrich.processes import Process, guid_of
from sensor.enrich.text import Raw

# generation, position, UTC ns, CLOCK_MONOTONIC ns, sandbox id, name and class, cgroup id, tgid
Where = tuple[int, int, int, int, int, str, str, int, int]
Common = tuple[
    int, int, int, int, int, str, str, int, int,
    str, str, str, str, str, int, str, str, str, str, bool, Raw,
]  # fmt: skip


def common(
    where: Where,
    process: Process | None,
    user: str,
    *,
    before: bool = False,
    existing: bool = False,
    added: Raw = None,
) -> Common:
    """`before`: with the program that it ran before its last exec. `added`: further bytes for `raw`."""
    if process is None:
        return (*where, guid_of(where[8], 0), "", "", "", user, 0, "", "", "", "", existing, added)
    image, line, raw = process.image, process.command_line, process.raw
    if before and process.before is not None:
        _, image, line, raw, _ = process.before
    if added:
        raw = {**(raw or {}), **added}
    guid = process.guid
    if not guid:
        guid = process.guid = guid_of(process.tgid, process.start_ns)
    parent, entry = process.parent, process.entry
    if parent is None:
        above = (process.parent_tgid, process.parent_image, "")
    else:
        above = (parent.tgid, parent.image, parent.command_line)
    return (*where, guid, image, line, process.cwd, user, *above, entry.image, entry.command_line, existing, raw)


def brought_along(process: Process | None, *, before: bool) -> bool:
    """Whether what acted had been brought along from outside. Nobody is excused for being unknown."""
    if process is None:
        return False
    return process.before[4] if before and process.before is not None else process.brought_along
