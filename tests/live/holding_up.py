"""Makes a process wait in the kernel uninterruptibly, for as long as a test likes: `python holding_up.py FILE`.

This one writes to FILE from memory that a userfaultfd would have to fill, which nobody does: it holds the file's lock
meanwhile, and whoever else writes to the file waits for that in state D, which no signal and no freezer ends. It lets
go when it is killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys

SYS_USERFAULTFD = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
UFFDIO_API, UFFDIO_REGISTER = 0xC018AA3F, 0xC020AA00
API, MISSING = 0xAA, 1


_kept: list[object] = []


def unfilled() -> int:
    """The address of a page that whoever reads it waits for."""
    libc = ctypes.CDLL(None, use_errno=True)
    fault = libc.syscall(SYS_USERFAULTFD, 0)
    if fault < 0:
        sys.exit(f"userfaultfd: {os.strerror(ctypes.get_errno())}")
    fcntl.ioctl(fault, UFFDIO_API, struct.pack("=QQQ", API, 0, 0))
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _kept.append(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(fault, UFFDIO_REGISTER, struct.pack("=QQQQ", address, mmap.PAGESIZE, MISSING, 0))
    return address


def main() -> None:
    address = unfilled()
    file = os.open(sys.argv[1], os.O_WRONLY)
    print("holding", flush=True)
    ctypes.CDLL(None).write(file, ctypes.c_void_p(address), mmap.PAGESIZE)


if __name__ == "__main__":
    main()
