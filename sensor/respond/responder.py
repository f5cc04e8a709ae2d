"""Carries out what the policy says about a detection, and journals it: intent first, then the outcome.

`log` is the detection itself, which is in the log already, so it makes no response. In monitor mode,
or while disarmed, the outcome is `would`. What was found at start (`Existing`) is answered like
anything else: a program does not earn its life by being older than the sensor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from sensor.events.detection import Detection, Response
from sensor.metrics import Metrics
from sensor.respond.disarm import Arming
from sensor.respond.freezer import Freezer
from sensor.respond.kill import Gone, Killer, Tree
from sensor.respond.killsandbox import Killed, SandboxKiller
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.policy import Decision, Policy
from sensor.respond.table import Host, Identity

MOST_TARGETS = 1024  # tgids told in a response
SETTLE_NS = 2_000_000_000  # how long a killed tree is asked for late children, an unsure refusal repeated
RESCAN_NS = 20_000_000
MOST_PENDING = 1024

Journal = Callable[[Response], None]


class Pending(Struct):
    """A response that is not over: a tree whose last children may still be in the ring, or a refusal
    that the next records may lift."""

    detection: Detection
    decision: Decision
    until_ns: int
    next_ns: int
    tree: Tree | None  # None: a refusal, to be asked again
    told: int = 0  # how many of tree.killed have been journalled


class Responder:
    """`journal` writes one response; an OSError of it is counted and stops nothing."""

    def __init__(self, policy: Policy, host: Host, journal: Journal, metrics: Metrics, arming: Arming) -> None:
        self.policy = policy  # replaced whole by a reload
        self._journal = journal
        self._metrics = metrics
        self._arming = arming
        guard = NeverTouch(host)
        self._killer = Killer(host, guard)
        self._freezer = Freezer(host.cgroup_mount, host.state)
        self._sandboxes = SandboxKiller(host, guard, self._killer)
        self._pending: deque[Pending] = deque()

    def recover(self) -> list[str]:
        """To be called once at start: thaws the cgroups that a daemon killed in mid-response left frozen.

        :returns: their paths, for the operator.
        :raises OSError: one cannot be thawed.
        """
        return self._freezer.thaw_leftovers()

    @property
    def pending(self) -> bool:
        """Whether `settle` has anything to do."""
        return bool(self._pending)

    def respond(self, detection: Detection) -> list[Response]:
        """What was done, oldest first; each is journalled already. Never raises for what a sandbox did."""
        activity = detection.activity
        decision = self.policy.decide(activity.SandboxClass, detection.level)
        if decision.action == "log":
            return []
        root = (activity.ProcessId,) if decision.action == "kill" else ()
        if decision.mode != "enforce":
            return [self._tell(detection, decision, "would", "", root)]
        if self._arming.disarmed():
            return [self._tell(detection, decision, "would", "disarmed", root)]
        intent = self._tell(detection, decision, "intent", "", root)
        return [intent, *self._act(detection, decision, last=False)]

    def settle(self) -> list[Response]:
        """To be called after each drain of the ring while `pending`: kills what was born while its tree
        was being killed, and asks again where a refusal was not final. Bounded."""
        told: list[Response] = []
        now = time.monotonic_ns()
        for _ in range(len(self._pending)):
            pending = self._pending.popleft()
            if now < pending.next_ns:
                self._pending.append(pending)
                continue
            pending.next_ns = now + RESCAN_NS
            if self._arming.disarmed():
                continue
            if pending.tree is None:
                told += self._act(pending.detection, pending.decision, last=now >= pending.until_ns, again=pending)
            else:
                told += self._go_on(pending, now)
        return told

    def _act(
        self, detection: Detection, decision: Decision, *, last: bool, again: Pending | None = None
    ) -> list[Response]:
        """One attempt. An unsure refusal is told once, and repeated by `settle` until it is the last."""
        try:
            done = self._kill(detection, decision)
        except Gone as gone:
            self._follow_below(detection, decision)
            return [self._tell(detection, decision, "gone", str(gone), ())]
        except OSError as error:
            return [self._tell(detection, decision, "failed", _reason(error), ())]
        if isinstance(done, Refusal):
            return self._refused(detection, decision, done, last=last, again=again)
        if isinstance(done, Tree):
            now = time.monotonic_ns()
            return self._go_on(Pending(detection, decision, now + SETTLE_NS, now + RESCAN_NS, done), now)
        outcome = ("done", "") if done.complete else ("failed", "processes were left after the last round")
        return [self._tell(detection, decision, *outcome, done.tgids)]

    def _kill(self, detection: Detection, decision: Decision) -> Killed | Tree | Refusal:
        activity = detection.activity
        if decision.action == "kill-sandbox":
            return self._sandboxes.kill(activity.SandboxId)
        start = self._killer.started(activity.ProcessId, start_ns(activity.ProcessGuid), activity.monotonic_ns)
        root = Identity(activity.ProcessId, start)
        if any(pending.tree is not None and root in pending.tree.seen for pending in self._pending):
            raise Gone("killed for an earlier detection")
        return self._killer.start(root, activity.SandboxId)

    def _follow_below(self, detection: Detection, decision: Decision) -> None:
        """Who forks and ends before it is answered leaves its children to the same answer."""
        if decision.action != "kill":
            return
        activity = detection.activity
        start = self._killer.started(activity.ProcessId, start_ns(activity.ProcessGuid), activity.monotonic_ns)
        root = Identity(activity.ProcessId, start)
        if start and not any(pending.tree is not None and root in pending.tree.seen for pending in self._pending):
            now = time.monotonic_ns()
            self._remember(
                Pending(detection, decision, now + SETTLE_NS, now, self._killer.below(root, activity.SandboxId))
            )

    def _go_on(self, pending: Pending, now: int) -> list[Response]:
        tree = pending.tree
        assert tree is not None
        failure = ""
        try:
            finished = self._killer.resume(tree)
            if now >= pending.until_ns and not finished:
                failure = "its processes multiply faster than they are killed"
        except OSError as error:
            failure = _reason(error)
        fresh = tuple(tree.killed[pending.told :])
        pending.told = len(tree.killed)
        if failure:
            return [self._tell(pending.detection, pending.decision, "failed", failure, fresh)]
        if now < pending.until_ns:
            self._remember(pending)
        return [self._tell(pending.detection, pending.decision, "done", "", fresh)] if fresh else []

    def _refused(
        self, detection: Detection, decision: Decision, refusal: Refusal, *, last: bool, again: Pending | None
    ) -> list[Response]:
        if not refusal.final and not last:
            now = time.monotonic_ns()
            until = again.until_ns if again is not None else now + SETTLE_NS
            self._remember(Pending(detection, decision, until, now + RESCAN_NS, None))
            if again is not None:
                return []
        return [self._tell(detection, decision, "never_touch", refusal.reason, ())]

    def _remember(self, pending: Pending) -> None:
        if len(self._pending) >= MOST_PENDING:
            self._pending.popleft()
            self._metrics.count("pinfold_responses_unsettled_total")
        self._pending.append(pending)

    def _tell(
        self, detection: Detection, decision: Decision, outcome: str, reason: str, targets: tuple[int, ...]
    ) -> Response:
        activity = detection.activity
        latency = 0 if outcome == "intent" else max(0, time.monotonic_ns() - activity.monotonic_ns)
        response = Response(
            detection_id=detection.id,
            time_ns=time.time_ns(),
            action=decision.action,
            mode=decision.mode,
            outcome=outcome,
            reason=reason,
            targets=targets[:MOST_TARGETS],
            latency_ns=latency,
        )
        try:
            self._journal(response)
        except OSError:
            self._metrics.count("pinfold_events_lost_total", ("log", "journal"))
        if outcome != "intent":
            self._metrics.count("pinfold_responses_total", (decision.action, outcome))
            if outcome == "done" and not activity.Existing:
                self._metrics.observe("pinfold_response_latency_seconds", latency / 1e9)
        return response


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def start_ns(guid: str) -> int:
    """From a ProcessGuid, `<tgid>-<start_ns>`; 0, which no process has, from anything else."""
    _, _, start = guid.partition("-")
    return int(start) if start.isascii() and start.isdigit() else 0
