#!/usr/bin/python3 -I
"""Opens each device node given, as a CUDA program would, and prints one line for each: what became of it."""

from __future__ import annotations

import errno
import os
import sys


def main() -> int:
    for path in sys.argv[1:]:
        try:
            os.close(os.open(path, os.O_RDWR))
            outcome = "opened"
        except OSError as error:
            outcome = errno.errorcode.get(error.errno or 0, str(error.errno))
        os.write(1, f"{path} {outcome}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
