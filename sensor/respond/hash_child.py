"""The child of sensor.respond.hashes: `python -I -S hash_child.py`. Reads a program's file and says what it is.

A line `TGID START_TICKS` on standard input; a line of JSON on standard output. Whose file system serves the file may
make any read hang: the parent kills who is late.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import stat
import sys

MOST_BYTES = 1 << 30
_CHUNK = 1 << 20
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


def asked(tgid: int, ticks: int) -> dict[str, object]:
    try:
        fd = os.open(f"/proc/{tgid}/exe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as why:
        return {"error": why.strerror}
    try:
        if _start_ticks(tgid) != ticks:
            return {"error": "it is gone"}
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > MOST_BYTES:
            return {"error": "no regular file, or too large"}
        digest = hashlib.sha256()
        left = MOST_BYTES
        while left > 0 and (chunk := os.read(fd, min(_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
        after = os.fstat(fd)
        if (after.st_ctime_ns, after.st_size) != (found.st_ctime_ns, found.st_size):
            return {"error": "it changed meanwhile"}
        device = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
        return {
            "sha256": digest.hexdigest(),
            "device": device,
            "inode": found.st_ino,
            "changed": int(found.st_ctime_ns // 1_000_000_000),
        }
    except OSError as why:
        return {"error": why.strerror}
    finally:
        os.close(fd)


def _start_ticks(tgid: int) -> int:
    try:
        with open(f"/proc/{tgid}/stat", "rb") as file:
            return int(file.read(1024).rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return -1


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    for line in sys.stdin.buffer:  # ends with the parent, at the latest
        tgid, ticks = line.split()
        os.write(1, json.dumps(asked(int(tgid), int(ticks))).encode() + b"\n")


if __name__ == "__main__":
    main()
