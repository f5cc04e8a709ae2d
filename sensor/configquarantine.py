"""Settings of quarantines and of the evidence that they keep."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from sensor.configfile import Problem, found

_BOUNDS: dict[str, tuple[int, int]] = {
    "freeze_seconds": (1, 600),
    "kill_seconds": (1, 600),
    "destroy_seconds": (1, 60),
    "evidence_seconds": (1, 600),
    "evidence_total_bytes": (1 << 20, 1 << 40),
    "evidence_file_bytes": (0, 1 << 34),
    "keep_ended": (0, 100_000),
}


class Quarantine(Struct, frozen=True, forbid_unknown_fields=True):
    freeze_seconds: int = 5  # a process waits in the kernel for a disk or NFS; then it is stated, and held all the same
    kill_seconds: int = 5  # until it is stated that something does not die; it is killed on all the same
    destroy_seconds: int = 2  # for the child that destroys sockets: 500 take some 50 ms
    evidence_seconds: int = 10
    evidence_total_bytes: int = 256 * 1024 * 1024  # of one sandbox's archive
    evidence_file_bytes: int = 32 * 1024 * 1024  # of one deleted executable or memfd
    keep_ended: int = 1000  # ledger entries of quarantines that are over


def quarantine_problems(quarantine: Quarantine) -> Iterator[Problem]:
    for key, (least, most) in _BOUNDS.items():
        value = getattr(quarantine, key)
        if not least <= value <= most:
            yield Problem(("quarantine", key), f"{least} to {most}", found(value))
    if quarantine.evidence_file_bytes > quarantine.evidence_total_bytes:
        yield Problem(
            ("quarantine", "evidence_file_bytes"),
            "no more than evidence_total_bytes",
            found(quarantine.evidence_file_bytes),
        )
