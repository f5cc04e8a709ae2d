"""`python -m sensor.rules.child`: `sensor.rules.sigma` for the core, which waits for it.

A process of one task, whose objects live to its end: none is looked for to be freed, before or then.
"""

import gc

gc.disable()

import os  # noqa: E402
import sys  # noqa: E402

from sensor.rules import sigma  # noqa: E402

if __name__ == "__main__":
    sys.stdin.readline()  # until what to compile is written down
    status = sigma.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
