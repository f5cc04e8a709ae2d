"""Programs that a class denies by their content: hashed when they first run, killed if they are, and from then on in
the kernel's map, so that the next exec of the file is killed before its first instruction.

What ends before it is hashed has run; so has what swaps its program meanwhile. A child reads the file, one at a time,
since a sandbox may serve it and let the read hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable

from msgspec import Struct

from sensor.events.activity import ProcessCreation
from sensor.respond import procfs
from sensor.respond.responder import start_ns

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hash_child.py")
PATIENCE_NS = 5_000_000_000
IDLE_NS = 10_000_000_000  # then the child ends: it costs memory
MOST_WAITING = 1024
MOST_KNOWN = 4096
SETTLED_S = 2

# The exec, its SHA-256, and the change time of the file as the probes will see it again, 0 where that is not sure.
Denied = Callable[[ProcessCreation, str, int], None]


def _file(execed: ProcessCreation) -> tuple[int, int, int]:
    return execed.ImageDevice, execed.ImageInode, execed.ImageChanged


class _Asked(Struct, frozen=True):
    exec: ProcessCreation
    until_ns: int


class Hashes:
    """`lists` gives a class's denied hashes. `denied` is called for each exec of one. For one thread; never blocks."""

    def __init__(self, lists: Callable[[str], frozenset[str]], denied: Denied, lost: Callable[[str], None]) -> None:
        self._lists = lists
        self._denied = denied
        self._lost = lost
        self._waiting: deque[ProcessCreation] = deque()
        self._asked: _Asked | None = None
        self._known: OrderedDict[tuple[int, int, int], str] = OrderedDict()
        self._child: subprocess.Popen[bytes] | None = None
        self._answer = b""
        self._used_ns = 0

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or self._asked is not None

    def observe(self, execed: ProcessCreation) -> None:
        """Each exec. Costs a look-up where its class denies no content."""
        if execed.Killed or not execed.ProcessId or not self._lists(execed.SandboxClass):
            return
        digest = self._known.get(_file(execed))
        if digest is not None:
            self._known.move_to_end(_file(execed))
            if digest in self._lists(execed.SandboxClass):
                self._denied(execed, digest, execed.ImageChanged)
            return
        if len(self._waiting) >= MOST_WAITING:
            self._lost("waiting")
            return
        self._waiting.append(execed)

    def poll(self, now_ns: int) -> None:
        if self._asked is not None:
            self._take(now_ns)
        if self._asked is None and self._waiting:
            self._ask(now_ns)
        elif self._asked is None and self._child is not None and now_ns - self._used_ns > IDLE_NS:
            self.close()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            # Not waited for: one in a read that hangs stays until that ends.
            with contextlib.suppress(OSError):
                for pipe in filter(None, (child.stdin, child.stdout)):
                    pipe.close()
            child.poll()

    def _ask(self, now_ns: int) -> None:
        execed = self._waiting.popleft()
        start = start_ns(execed.ProcessGuid)
        try:
            child = self._child or self._start()
            assert child.stdin is not None
            os.write(child.stdin.fileno(), f"{execed.ProcessId} {procfs.ticks(start)}\n".encode())
        except OSError:
            self.close()
            self._lost("child")
            return
        self._answer = b""
        self._used_ns = now_ns
        self._asked = _Asked(execed, now_ns + PATIENCE_NS)

    def _take(self, now_ns: int) -> None:
        asked, child = self._asked, self._child
        assert asked is not None
        if child is None or child.stdout is None:
            self._asked = None
            return
        if select.select([child.stdout], [], [], 0)[0]:
            self._answer += os.read(child.stdout.fileno(), 4096)
            if not self._answer.endswith(b"\n"):
                self._asked = None
                self.close()
                self._lost("child")
                return
            self._asked = None
            self._judge(asked.exec, self._answer)
        elif now_ns >= asked.until_ns:
            self._asked = None
            self.close()
            self._lost("late")

    def _judge(self, execed: ProcessCreation, answer: bytes) -> None:
        try:
            told = json.loads(answer)
        except ValueError:
            return
        digest, changed = told.get("sha256"), told.get("changed", 0)
        if not isinstance(digest, str) or not isinstance(changed, int):
            return  # gone, or changed: it runs no more, or is read at its next exec
        # Of another inode it ran something else meanwhile. (On an overlay the two may differ by themselves: such are
        # read anew each time.) What was changed a moment ago may be changed again within the same second.
        same = told.get("inode") == execed.ImageInode and changed == execed.ImageChanged
        if same and execed.time_ns // 1_000_000_000 > changed + SETTLED_S:
            self._known[_file(execed)] = digest
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        if digest in self._lists(execed.SandboxClass):
            self._denied(execed, digest, execed.ImageChanged if same else 0)

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-S", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
            preexec_fn=_unblocked,  # noqa: PLW1509 - the core has one thread
        )
        return self._child


def _unblocked() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
