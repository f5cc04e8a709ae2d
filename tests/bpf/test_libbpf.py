"""What the kernel refuses is said with its reason, as root and as anybody else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sensor.bpf import libbpf
from sensor.bpf.libbpf import AttachType, MapType
from sensor.errors import HostError, RefusedError

CLOSED = 1 << 20  # no descriptor of ours

CALLS: dict[str, Callable[[], object]] = {
    "opening the pin /nowhere/pin": lambda: libbpf.get(Path("/nowhere/pin")),
    "pinning /nowhere/pin": lambda: libbpf.pin(CLOSED, Path("/nowhere/pin")),
    "writing a map": lambda: libbpf.update(CLOSED, bytes(4), bytes(4)),
    "creating the map wrong": lambda: libbpf.map_create(MapType.HASH, "wrong", (0, 0), 0),
    "attaching DEVICE to a cgroup": lambda: libbpf.link_cgroup(CLOSED, CLOSED, AttachType.DEVICE),
    "attaching to the tracepoint absent": lambda: libbpf.link_raw_tracepoint(CLOSED, "absent"),
    "asking about a BPF object": lambda: libbpf.info(CLOSED),
    "running a program": lambda: libbpf.run_raw_tracepoint(CLOSED, bytes(8)),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_refusal_says_what_was_tried_and_why(what: str) -> None:
    with pytest.raises(RefusedError) as error:
        CALLS[what]()
    cause = error.value.__cause__
    assert isinstance(cause, OSError)
    # EPERM without rights, which the kernel looks at first
    assert cause.errno in (errno.EPERM, errno.EBADF, errno.EBADFD, errno.ENOENT, errno.EINVAL)
    assert str(error.value) == f"{what}: {os.strerror(cause.errno)}"


def test_reading_what_is_not_there_gives_nothing() -> None:
    assert libbpf.lookup(CLOSED, bytes(4), 8) is None
    assert libbpf.delete(CLOSED, bytes(4)) is False
    assert libbpf.keys(CLOSED, 4, 100) == []


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> object:
        raise OSError("no such file")

    monkeypatch.setattr("ctypes.CDLL", absent)
    with pytest.raises(HostError, match="apt-get install libbpf1"):
        libbpf._load()
