#!/usr/bin/python3 -I
"""Opens the device node given, as a CUDA program would, and prints what became of it.

Refused, it goes on without, for a while.
"""

from __future__ import annotations

import errno
import os
import sys
import time

WITHOUT_SECONDS = 5.0


def main() -> int:
    try:
        os.close(os.open(sys.argv[1], os.O_RDWR))
        outcome = "opened"
    except OSError as error:
        outcome = errno.errorcode[error.errno or 0]
        if error.errno in (errno.ENXIO, errno.ENODEV):
            outcome += ", as it has no driver: not refused"
    os.write(1, f"{outcome}\n".encode())
    if outcome == "EPERM":
        time.sleep(WITHOUT_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
