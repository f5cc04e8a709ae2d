"""Maps and programs of a new generation, made and pinned: whether compiled just now or kept from an earlier start."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from sensor.bpf import bytecode, libbpf, maps, programs
from sensor.bpf.libbpf import ProgType


def make_maps(folder: Path, shared: Path, sizes: maps.Sizes) -> dict[str, int]:
    """Descriptors by name, those that all generations share among them. `folder`: where `map-<name>` is pinned."""
    descriptors = {name: libbpf.get(shared / name) for name in maps.SHARED}
    for name, definition in maps.definitions(sizes).items():
        descriptors[name] = maps.create(name, definition)
        libbpf.pin(descriptors[name], folder / f"map-{name}")
    return descriptors


def attach_type(program: programs.Program) -> int:
    """What it is loaded for. Those that share a map of programs must be of one attach type (6.12 on); a link may give
    skb programs another."""
    return 0 if program.attach is None or program.kind is ProgType.CGROUP_SKB else int(program.attach)


def pin_program(folder: Path, program: programs.Program, loaded: int, descriptors: Mapping[str, int]) -> None:
    libbpf.pin(loaded, folder / f"program-{program.name}")
    if program.called_by is not None:  # pinned, the map keeps it while nobody runs
        name, place = program.called_by
        libbpf.update(descriptors[name], place.to_bytes(4, sys.byteorder), loaded.to_bytes(4, sys.byteorder))


def load_kept(  # noqa: PLR0917 - what a generation is made of
    folder: Path,
    shared: Path,
    generation: int,
    sizes: maps.Sizes,
    features: frozenset[str],
    kept: tuple[bytecode.Program, ...],
) -> bool:
    """Without the compiler. False: one that is wanted was not kept.

    :raises RefusedError: the kernel takes one no more
    """
    by_name = {each.name: each for each in kept}
    wanted = programs.chosen(features)
    if not all(program.name in by_name for program in wanted):
        return False
    opened: list[int] = []
    try:
        descriptors = make_maps(folder, shared, sizes)
        opened += descriptors.values()
        for program in wanted:
            code = bytecode.instructions(by_name[program.name], descriptors, generation)
            opened.append(libbpf.load_program(program.kind, program.name, code, attach_type(program)))
            pin_program(folder, program, opened[-1], descriptors)
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True
