"""The cgroup2 hierarchy of this host: where it is mounted, and paths of its cgroups by id."""

from __future__ import annotations

import ctypes
import os
import re
import struct

from sensor.errors import HostError

# include/linux/exportfs.h; a kernfs handle is the node's 64-bit id, which is the cgroup's id.
_FILEID_KERNFS = 0xFE
_HANDLE = struct.Struct("=IiQ")
_ESCAPE = re.compile(r"\\([0-7]{3})")


def find_cgroup2_mount(mountinfo: str = "/proc/self/mountinfo") -> str:
    """Where cgroup2 is mounted; on hybrid hosts that is /sys/fs/cgroup/unified. Of several mounts, one
    of the whole hierarchy wins over one of a part of it."""
    best: tuple[bool, str] | None = None
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                before, _, after = line.partition(" - ")
                fields = before.split(" ")
                if after.split(" ", 1)[0] != "cgroup2" or len(fields) < 5:
                    continue
                candidate = (fields[3] == "/", _ESCAPE.sub(lambda m: chr(int(m[1], 8)), fields[4]))
                if best is None or candidate[0] > best[0]:
                    best = candidate
    except OSError as error:
        raise HostError(f"cannot read {mountinfo}: {error.strerror}; is /proc mounted?") from error
    if best is None:
        raise HostError(
            "no cgroup2 file system is mounted: run `mount -t cgroup2 none /sys/fs/cgroup/unified`, "
            "or boot with systemd.unified_cgroup_hierarchy=1"
        )
    return best[1]


class CgroupPaths:
    """Paths by cgroup id, through the kernel's own file handles: no walk of the tree, however large.

    Needs CAP_DAC_READ_SEARCH; without it, every answer is None."""

    def __init__(self, mount: str) -> None:
        self._mount = os.path.realpath(mount)
        self._libc = ctypes.CDLL(None, use_errno=True)

    def path(self, cgroup_id: int) -> str | None:
        """Path below the mount, without a slash at either end; None where there is no such cgroup."""
        if not 0 < cgroup_id < 1 << 64:
            return None
        try:
            directory = os.open(self._mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            handle = ctypes.create_string_buffer(_HANDLE.pack(8, _FILEID_KERNFS, cgroup_id))
            fd = self._libc.open_by_handle_at(directory, handle, os.O_PATH | os.O_CLOEXEC)
            return self._path_of(fd) if fd >= 0 else None
        finally:
            os.close(directory)

    def _path_of(self, fd: int) -> str | None:
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return None
        finally:
            os.close(fd)
        below = self._mount + "/"
        if not path.startswith(below) or path.endswith(" (deleted)"):
            return None
        return path.removeprefix(below)
