"""What left its sandbox's cgroup is killed at once, in enforce mode; it is its sandbox's all the while.

No hook can refuse the move without LSM, so there is a window: from the move in the kernel to the SIGKILL. It is
measured for each, and printed. Killed is who moved, by a pidfd, with whatever descends from it; and who moved it,
where that is another process of a sandbox. A move by somebody outside every sandbox is a launcher's or a manager's
business and is only told: also one that a sandbox asked for (a unit started by systemd, say). A move that fails
leaves no trace in the kernel's tracepoint, and none here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from sensor.events.layouts import Fork, Move
from sensor.metrics import Metrics
from sensor.respond import procfs
from sensor.respond.disarm import Arming
from sensor.respond.kill import Gone, Killer, Tree
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.table import Host, Identity, identity

SETTLE_NS = 2_000_000_000  # late children, an unsure refusal, and sockets that were passed on before the kill
AGAIN_NS = 20_000_000
MOST_PENDING = 1024
_NOBODY = Identity(0, 0)


class Escape(Struct, frozen=True):
    """`cgroup_id`: where it went. `moved_ns`: CLOCK_MONOTONIC in the kernel."""

    sandbox_id: int
    tgid: int
    start_ns: int
    cgroup_id: int
    moved_ns: int
    mover_tgid: int


class _Pending(Struct):
    escape: Escape
    until_ns: int
    next_ns: int
    tree: Tree | None  # None: a refusal, to be asked again


def escape_of(r: Move | Fork) -> Escape:
    """Of a record of which sensor/enrich/escapes.py says that it is one."""
    mover = r.mover_tgid if type(r) is Move else r.parent_tgid  # type: ignore[union-attr]
    return Escape(r.sandbox_id, r.tgid, r.start_ns, r.cgroup_id, r.time_ns, mover)


class Containment:
    """`enforcing(class)`: whether the sandbox class is in enforce mode. `told(text, **fields)` writes a notice.
    `sweep(sandbox id, cgroup id)` has sockets destroyed that were made in the cgroup and that the sandbox holds."""

    def __init__(  # noqa: PLR0917 - what it acts through
        self,
        host: Host,
        enforcing: Callable[[str], bool],
        arming: Arming,
        metrics: Metrics,
        told: Callable[..., None],
        sweep: Callable[[int, int], None],
    ) -> None:
        self._table = host.table
        self._enforcing = enforcing
        self._arming = arming
        self._metrics = metrics
        self._told = told
        self._sweep = sweep
        self._killer = Killer(host, NeverTouch(host))
        self._pending: deque[_Pending] = deque()

    @property
    def pending(self) -> bool:
        """Whether `settle` has anything to do."""
        return bool(self._pending)

    def escaped(self, escape: Escape, sandbox_class: str, *, again: bool = False) -> None:
        """To be called as soon as the process table knows of the move, before anything else is done with it. `again`:
        a replay of what was told, of which there may be nothing left to do."""
        if again and not self._lives(escape):
            return
        if not self._enforcing(sandbox_class) or self._arming.disarmed():
            self._metrics.count("pinfold_containments_total", ("would",))
            return
        now = time.monotonic_ns()
        self._remember(_Pending(escape, now + SETTLE_NS, now, self._kill(escape)))
        if escape.mover_tgid != escape.tgid:
            self._kill_mover(escape)
        self._sweep(escape.sandbox_id, escape.cgroup_id)

    def settle(self) -> None:
        """To be called after each drain of the ring while `pending`. Bounded."""
        now = time.monotonic_ns()
        for _ in range(len(self._pending)):
            pending = self._pending.popleft()
            if now < pending.next_ns:
                self._pending.append(pending)
                continue
            pending.next_ns = now + AGAIN_NS
            if self._arming.disarmed():
                continue
            if pending.tree is None:
                pending.tree = self._kill(pending.escape, last=now >= pending.until_ns)
            elif pending.tree.root != _NOBODY:
                self._resume(pending)
            if now < pending.until_ns:
                self._pending.append(pending)
            else:
                self._sweep(pending.escape.sandbox_id, pending.escape.cgroup_id)

    def _lives(self, escape: Escape) -> bool:
        stat = procfs.stat(escape.tgid)
        return stat is not None and not stat.gone and stat.start_ticks == procfs.ticks(escape.start_ns)

    def _kill(self, escape: Escape, *, last: bool = False) -> Tree | None:
        """A tree to go on with: who forked and ended before the kill has left children. None: to be asked again."""
        target = Identity(escape.tgid, procfs.ticks(escape.start_ns))
        below = self._killer.orphans(target, escape.sandbox_id)
        try:
            done = self._killer.start(target, escape.sandbox_id)
        except Gone:
            self._tell(escape, "gone", "was gone before it could be killed")
            return below
        except OSError as error:
            self._tell(escape, "failed", f"could not be killed: {error.strerror}")
            return below
        if isinstance(done, Tree):
            window = max(0, time.monotonic_ns() - escape.moved_ns)
            self._metrics.observe("pinfold_containment_seconds", window / 1e9)
            self._tell(escape, "killed", f"was killed {window / 1e6:.3f} ms after the move", window_ns=window)
            return done
        if not done.final and not last:
            return None
        self._tell(escape, "never_touch", f"is not killed: {done.reason}")
        return Tree(_NOBODY, escape.sandbox_id, deque(), set(), [])

    def _resume(self, pending: _Pending) -> None:
        tree = pending.tree
        assert tree is not None
        try:
            self._killer.resume(tree)
        except OSError as error:
            self._tell(pending.escape, "failed", f"left descendants that could not be killed: {error.strerror}")
            pending.until_ns = 0

    def _kill_mover(self, escape: Escape) -> None:
        """Else it moves the next one. Alone: what it started and did not move has done nothing."""
        mover = self._table.get(escape.mover_tgid)
        if mover is None or not mover.sandbox_id:
            return
        try:
            refusal = self._killer.alone(identity(mover), mover.sandbox_id)
        except (Gone, OSError):
            return
        outcome = f"is not killed: {refusal.reason}" if refusal is not None else "was killed too"
        self._told(
            f"the process that moved another out of its sandbox's cgroup {outcome}",
            SandboxId=mover.sandbox_id,
            ProcessId=mover.tgid,
        )

    def _tell(self, escape: Escape, outcome: str, text: str, **fields: int) -> None:
        self._metrics.count("pinfold_containments_total", (outcome,))
        self._told(
            f"a process that left its sandbox's cgroup {text}",
            SandboxId=escape.sandbox_id,
            ProcessId=escape.tgid,
            CgroupId=escape.cgroup_id,
            MoverProcessId=escape.mover_tgid,
            **fields,
        )

    def _remember(self, pending: _Pending) -> None:
        if len(self._pending) >= MOST_PENDING:
            self._pending.popleft()
            self._metrics.count("pinfold_responses_unsettled_total")
        self._pending.append(pending)
