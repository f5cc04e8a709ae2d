"""Device nodes that a CUDA program opens: the host's own, else nodes of the same major made for the demo."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from msgspec import Struct

from sensor.demo.undo import Undo, remove_tree

NVIDIA_MAJOR = 195  # Documentation/admin-guide/devices.txt
NODES = (("nvidia0", 0), ("nvidiactl", 255))


class Node(Struct, frozen=True):
    path: Path
    major: int
    minor: int
    real: bool  # the host's own, with a driver behind it


def nodes(instance: str, undo: Undo, devices: Path = Path("/dev")) -> list[Node]:
    """One node for each of NODES. Those made lie below /dev, which is never mounted nodev, as /tmp may be."""
    real = [devices / name for name, _ in NODES]
    if all(_is_node(path, minor) for path, (_, minor) in zip(real, NODES, strict=True)):
        return [Node(path, NVIDIA_MAJOR, minor, True) for path, (_, minor) in zip(real, NODES, strict=True)]
    folder = devices / instance
    undo.add(f"device nodes in {folder}", lambda: remove_tree(folder))
    folder.mkdir(mode=0o755)
    for name, minor in NODES:
        os.mknod(folder / name, stat.S_IFCHR | 0o666, os.makedev(NVIDIA_MAJOR, minor))
    return [Node(folder / name, NVIDIA_MAJOR, minor, False) for name, minor in NODES]


def _is_node(path: Path, minor: int) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(NVIDIA_MAJOR, minor)
