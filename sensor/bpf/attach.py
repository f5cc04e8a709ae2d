"""Attaching pinned programs, as links that are pinned too and so outlive this process.

A raw tracepoint has one link. A cgroup program has one in every folder that holds sandboxes; the
cgroup's id is in the pin's name, since a cgroup that is removed takes its links along, and one made
again at the same path has another id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sensor.bpf import libbpf
from sensor.bpf.objects import Generation
from sensor.bpf.programs import PROGRAMS

# A test switches one probe off with it, to prove that another test notices.
OFF_VARIABLE = "PINFOLD_TEST_WITHOUT_PROBE"


def attach_tracepoints(generation: Generation) -> None:
    off = os.environ.get(OFF_VARIABLE)
    for program in PROGRAMS:
        pin = generation.folder / f"link-{program.name}"
        if not program.tracepoint or program.name not in generation.programs or program.name == off or pin.exists():
            continue
        link = libbpf.link_raw_tracepoint(generation.programs[program.name], program.tracepoint)
        _pin(link, pin)


def attach_cgroup(generation: Generation, folder: str) -> bool:
    """To the cgroup at `folder`. False: it was attached already. Raises OSError if the cgroup is gone."""
    off = os.environ.get(OFF_VARIABLE)
    cgroup = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fresh = False
    try:
        cgroup_id = os.fstat(cgroup).st_ino
        for program in PROGRAMS:
            pin = generation.folder / f"link-{program.name}-{cgroup_id}"
            if program.attach is None or program.name not in generation.programs or program.name == off:
                continue
            if not pin.exists():
                _pin(libbpf.link_cgroup(generation.programs[program.name], cgroup, program.attach), pin)
                fresh = True
    finally:
        os.close(cgroup)
    return fresh


def detach_others(generation: Generation, cgroup_ids: Iterable[int]) -> None:
    """Unpin the links of cgroups that are gone, or no longer hold sandboxes."""
    wanted = {str(cgroup_id) for cgroup_id in cgroup_ids}
    for pin in generation.folder.glob("link-*-*"):
        if pin.name.rsplit("-", 1)[1] not in wanted:
            pin.unlink(missing_ok=True)


def detach_all(generation: Generation) -> None:
    for pin in generation.folder.glob("link-*"):
        pin.unlink(missing_ok=True)


def _pin(link: int, pin: Path) -> None:
    try:
        libbpf.pin(link, pin)
    finally:
        os.close(link)
