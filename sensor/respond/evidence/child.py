"""The child of sensor.respond.evidence.collector: `python -I -S child.py collect PARENT`, or `finish PARENT WHY`.

Standard input is one line of JSON and what the core knows; standard output tells of each member as it is in the
archive, and last how it ended. The modules that do it are imported from the package by absolute names, without
site-packages: nothing of them but the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys

sys.path.append(os.path.abspath(os.path.join(os.path.dirname(__file__), *[os.pardir] * 3)))

from sensor.respond.evidence.archive import RefusedError
from sensor.respond.evidence.collect import Collection, Progress, finish, parsed

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_PROGRESS_BYTES = 64 << 20


def main() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[2]):
        return  # it died before
    os.umask(0o077)
    progress = Progress(1)
    try:
        line, _, facts = os.pread(0, os.fstat(0).st_size, 0).partition(b"\n")
        question = json.loads(line)
        if sys.argv[1] == "finish":
            finish(question, parsed(os.pread(3, _PROGRESS_BYTES, 0)), sys.argv[3], progress)
        else:
            Collection(question, facts, progress).run()
    except RefusedError as why:
        progress.tell(failed=str(why))
    except OSError as why:
        progress.tell(failed=os.strerror(why.errno or 0))
    except Exception as why:  # else the core would hear nothing of it
        progress.tell(failed=type(why).__name__)


if __name__ == "__main__":
    main()
    os._exit(0)  # nothing is torn down under threads that hang
