"""Which sandbox is meant: a name, a cgroup id, or a cgroup path, as an operator writes it."""

from __future__ import annotations

from difflib import get_close_matches

from sensor.control.caller import ConflictError, printable
from sensor.enrich.sandboxes.registry import Registry, Sandbox
from sensor.errors import NotFoundError

_SHOWN = 8
_COMPARED = 32  # names held against a mistyped one: some 50 us each


def sandbox(registry: Registry, ref: str, ended: bool = False) -> Sandbox:
    """A number is an id and nothing else: a sandbox that names itself after another's id is not it, nor when that one
    is over. Else the path comes before the name.

    :param ended: also one that is over, by its id.
    :raises NotFoundError: with the names that are like it.
    :raises ConflictError: with those that are meant.
    """
    if ref.isascii() and ref.isdigit() and len(ref) <= 20:
        known = registry.by_id.get(int(ref))
        if known is not None and (ended or not known.ended_ns):
            return known
        raise NotFoundError(f"no sandbox with the cgroup id {ref}{', it is over' if known is not None else ''}")
    live = registry.live()
    path = ref.strip("/")
    found = [one for one in live if one.path == path] or [one for one in live if one.name == ref]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(f"{one.id} ({printable(one.path)})" for one in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise ConflictError(f"{printable(ref, 64)} is the name of {len(found)} sandboxes: {shown}{more}")
    near = _near(ref[:64], (one.name for one in live))
    hint = f"; there is {', '.join(map(printable, near))}" if near else "" if live else "; there are none"
    raise NotFoundError(f"no sandbox {printable(ref, 64)}{hint}")


def _near(ref: str, names: object) -> list[str]:
    assert hasattr(names, "__iter__")
    alike: list[str] = []
    folded = ref.casefold()
    for name in names:
        if len(alike) < _COMPARED and (folded in name.casefold() or name.casefold()[:3] == folded[:3]):
            alike.append(name)
    return get_close_matches(ref, alike, 3, 0.3)
