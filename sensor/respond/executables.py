"""Which programs a class's sandboxes may not run, as entries of the kernel's trie of paths."""

from __future__ import annotations

from collections.abc import Mapping

from sensor.bpf.state import ExecutableKey
from sensor.config import Config, SandboxClass
from sensor.events.layouts import ExecDenied

LISTED, SHELL = 1, 2  # PF_… in probes/process.bpf.c
_CLASS_BITS = 32
_PATH_BYTES = 120


def denied_execs(settings: SandboxClass) -> int:
    """Of struct pf_class: a bit for each reason that may be found in the kernel."""
    denied = settings.denied_executables
    reasons = {
        ExecDenied.LISTED: bool(denied.paths),
        ExecDenied.MEMFD: denied.memfd,
        ExecDenied.DELETED: denied.deleted,
        ExecDenied.WRITTEN: denied.written_inside,
        ExecDenied.HASH: bool(denied.sha256),
        ExecDenied.SHELL: settings.shells_on_sockets == "deny",
    }
    return sum(1 << reason for reason, on in reasons.items() if on)


def executable_entries(config: Config, numbers: Mapping[str, int]) -> dict[bytes, bytes]:
    """The whole trie, of all classes. `numbers`: of policy.class_index."""
    entries: dict[bytes, bytes] = {}
    for name, number in numbers.items():
        for path, value in _of_class(config, config.classes.get(name, SandboxClass())).items():
            key = ExecutableKey(_CLASS_BITS + 8 * len(path), _big(number), path.ljust(_PATH_BYTES, b"\0"))
            entries[key.pack()] = value.to_bytes(4, "little")
    return entries


def _of_class(config: Config, settings: SandboxClass) -> dict[bytes, int]:
    wanted = dict.fromkeys(map(walked, settings.denied_executables.paths), LISTED)
    if settings.shells_on_sockets == "deny":
        for shell in config.detect.reverse_shell.shells:
            path = walked(shell)
            wanted[path] = wanted.get(path, 0) | SHELL
    # The longest prefix answers alone: it must have what the shorter ones say.
    return {path: _all_of(path, wanted) for path in wanted}


def _all_of(path: bytes, wanted: Mapping[bytes, int]) -> int:
    value = 0
    for other, its in wanted.items():
        value |= its if path.startswith(other) else 0
    return value


def walked(path: str) -> bytes:
    """As the probes walk it: the last name first, each ended by NUL; a whole path ends with another, where a longer
    one would have a name."""
    names = [part.encode() for part in path.split("/") if part]
    return b"".join(name + b"\0" for name in reversed(names)) + (b"\0" if path.startswith("/") else b"")


def _big(number: int) -> int:
    """The trie compares bytes from the first on: the class is big-endian there."""
    return int.from_bytes(number.to_bytes(4, "big"), "little")
