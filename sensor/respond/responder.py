"""Carries out what the policy says about a detection, and journals it: intent first, then the outcome.

`log` is the detection itself, which is in the log already, so it makes no response. In monitor mode,
or while disarmed, the outcome is `would`. What was found at start (`Existing`) is answered like
anything else: a program does not earn its life by being older than the sensor. What somebody silenced,
acknowledged or excepted is told and left alone. With a grace period a response is announced, and asked
again whether it shall be when its time has come.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct

from sensor.configrespond import HOLDS
from sensor.errors import NeverTouchError, PinfoldError
from sensor.events.detection import Detection, Response
from sensor.metrics import Metrics
from sensor.respond.budget import Budget
from sensor.respond.disarm import Arming
from sensor.respond.exceptions import FileId
from sensor.respond.freezer import Freezer
from sensor.respond.grace import Graces
from sensor.respond.kill import Gone, Killer, Tree
from sensor.respond.killsandbox import Killed, SandboxKiller
from sensor.respond.nevertouch import NeverTouch, Refusal
from sensor.respond.policy import Decision, Policy
from sensor.respond.silences import Silences
from sensor.respond.table import Host, Identity, Known

MOST_TARGETS = 1024  # tgids told in a response
SETTLE_NS = 2_000_000_000  # how long a killed tree is asked for late children, an unsure refusal repeated
ORPHANS_NS = 500_000_000  # as SETTLE_NS, where the root was gone: a storm of short programs must not cost much
RESCAN_NS = 20_000_000
MOST_PENDING = 1024

Journal = Callable[[Response], None]
# For a detection, frozen only or in quarantine; gives the quarantine's id, and the one that there is already where the
# sandbox is held. Raises PinfoldError.
Quarantine = Callable[[Detection, bool], str]
Told = Callable[..., None]  # a notice: text, and fields by name


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
    """`journal` writes one response; an OSError of it is counted and stops nothing. `quarantine` and `silences` are
    theirs who keep them; without them nothing is quarantined or silenced."""

    def __init__(
        self,
        policy: Policy,
        host: Host,
        journal: Journal,
        metrics: Metrics,
        arming: Arming,
        *,
        quarantine: Quarantine | None = None,
        silences: Silences | None = None,
        told: Told = lambda _text, **_fields: None,
    ) -> None:
        self.policy = policy  # replaced whole by a reload
        self.quarantine = quarantine
        self.silences = silences
        self._table = host.table
        self._journal = journal
        self._metrics = metrics
        self._arming = arming
        self._notice = told
        self.guard = NeverTouch(host)
        self._killer = Killer(host, self.guard)
        self._freezer = Freezer(host.cgroup_mount, host.state)
        self.sandboxes = SandboxKiller(host, self.guard, self._killer)
        self._pending: deque[Pending] = deque()
        self._graces = Graces(host.state)
        self._budget = Budget()

    def recover(self) -> list[str]:
        """To be called once at start: thaws the cgroups that a daemon killed in mid-response left frozen, and takes up
        what the last run had announced.

        :returns: paths of thawed cgroups, for the operator.
        :raises OSError: one cannot be thawed.
        """
        try:
            self._graces.restore()
        except (OSError, ValueError) as error:
            self._notice("what was announced before the restart cannot be read and is not done", reason=str(error))
        return self._freezer.thaw_leftovers()

    @property
    def pending(self) -> bool:
        """Whether `settle` has anything to do."""
        return bool(self._pending) or self._graces.due

    @property
    def announced(self) -> int:
        """How many responses wait for the end of their grace."""
        return len(self._graces)

    def answers(self, detection: Detection) -> bool:
        """Whether more would be done about it than to tell it."""
        decision = self.policy.of_detection(detection)
        return decision.action != "log" and decision.mode == "enforce" and not self._arming.disarmed()

    def respond(self, detection: Detection) -> list[Response]:
        """What was done, oldest first; each is journalled already. Never raises for what a sandbox did."""
        decision = self.policy.of_detection(detection)
        if decision.action == "log":
            return []
        return self._consider(detection, decision, self.policy.grace_seconds(detection.activity.SandboxClass))

    def _consider(self, detection: Detection, decision: Decision, grace_seconds: int) -> list[Response]:
        root = (detection.activity.ProcessId,) if decision.action == "kill" else ()
        passed_over = self._passed_over(detection)
        if passed_over is not None:
            return [self._tell(detection, decision, *passed_over, root)]
        if decision.mode != "enforce":
            return [self._tell(detection, decision, "would", "", root)]
        if self._arming.disarmed():
            return [self._tell(detection, decision, "would", "disarmed", root)]
        if grace_seconds and self._announce(detection, decision, grace_seconds):
            reason = f"in {grace_seconds} s, unless it is acknowledged or silenced"
            return [self._tell(detection, decision, "announced", reason, root)]
        if decision.action in HOLDS and (reason := self._over_budget(detection)):
            return [self._tell(detection, decision, "budget", reason, root)]
        intent = self._tell(detection, decision, "intent", "", root)
        return [intent, *self._act(detection, decision, last=False)]

    def _passed_over(self, detection: Detection) -> tuple[str, str] | None:
        """Outcome and reason, where somebody said that nothing is to be done."""
        if self.silences is not None:
            if reason := self.silences.acknowledged(detection):
                return "acknowledged", reason
            if reason := self.silences.matches(detection):
                return "silenced", reason
        if reason := self.policy.exception(detection, self._image_of(detection)):
            return "excepted", reason
        return None

    def _image_of(self, detection: Detection) -> FileId | None:
        """Device and inode of what the detected process ran when it did what was detected; None where that is not
        sure. A program that executes an excepted one after the deed is not excepted for it."""
        activity = detection.activity
        known: Known | None = self._table.get(activity.ProcessId)
        if known is None or known.start_ns != start_ns(activity.ProcessGuid) or known.image != activity.Image:
            return None
        if not 0 < known.exec_id <= activity.monotonic_ns or not known.executed_inside:
            return None
        return known.image_file if known.image_file[1] else None

    def _announce(self, detection: Detection, decision: Decision, seconds: int) -> bool:
        """False: it cannot wait."""
        try:
            return self._graces.add(detection, decision.action, seconds)
        except OSError as error:
            self._metrics.count("pinfold_events_lost_total", ("log", "journal"))
            self._notice("an announced response would not survive a restart", reason=_reason(error))
            return True

    def _over_budget(self, detection: Detection) -> str:
        activity = detection.activity
        now = time.monotonic_ns()
        most = self.policy.quarantines_per_minute(activity.SandboxClass)
        if self._budget.take(activity.SandboxClass, activity.SandboxId, most, now):
            return ""
        self._metrics.count("pinfold_response_budget_exceeded_total")
        if self._budget.say(activity.SandboxClass, now):
            text = (
                f"critical: {most} quarantines of class {activity.SandboxClass} in a minute, the budget: "
                "further detections are only told until it is over; is a rule wrong, or is it an attack?"
            )
            self._notice(text, SandboxClass=activity.SandboxClass, SandboxId=activity.SandboxId)
        return f"{most} quarantines of the class in the last minute: only told"

    def _end_graces(self) -> list[Response]:
        told: list[Response] = []
        over = self._graces.take_due()
        for waiting in over:
            # The mode may be another by now; what to do was announced.
            decision = Decision(self.policy.mode(waiting.detection.activity.SandboxClass), waiting.action)
            told += self._consider(waiting.detection, decision, 0)
        if over:
            try:
                self._graces.settled()
            except OSError as error:
                self._notice("announced responses would be done again after a restart", reason=_reason(error))
        return told

    def settle(self) -> list[Response]:
        """To be called after each drain of the ring while `pending`: kills what was born while its tree
        was being killed, and asks again where a refusal was not final. Bounded."""
        told = self._end_graces() if self._graces.due else []
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
        if decision.action in HOLDS:
            return [self._tell(detection, decision, *self._hold(detection, decision), ())]
        try:
            done = self._kill(detection, decision)
        except Gone as gone:
            self._follow_below(detection, decision)
            return [self._tell(detection, decision, "gone", str(gone), ())]
        except OSError as error:
            return [self._tell(detection, decision, "failed", _reason(error), ())]
        if isinstance(done, Refusal):
            return self._refused(detection, decision, done, last=last, again=again)
        return self._killed(detection, decision, done)

    def _killed(self, detection: Detection, decision: Decision, done: Killed | Tree) -> list[Response]:
        if isinstance(done, Killed):
            outcome = ("done", "") if done.complete else ("failed", "processes were left after the last round")
            return [self._tell(detection, decision, *outcome, done.tgids)]
        now = time.monotonic_ns()
        if done.killed:
            return self._go_on(Pending(detection, decision, now + SETTLE_NS, now + RESCAN_NS, done), now)
        # The process has ended; what it forked before has not, or is in the ring yet.
        told = self._go_on(Pending(detection, decision, now + ORPHANS_NS, now + RESCAN_NS, done), now)
        return told or [self._tell(detection, decision, "gone", str(Gone()), ())]

    def _kill(self, detection: Detection, decision: Decision) -> Killed | Tree | Refusal:
        activity = detection.activity
        if decision.action == "kill-sandbox":
            return self.sandboxes.kill(activity.SandboxId)
        start = self._killer.started(activity.ProcessId, start_ns(activity.ProcessGuid), activity.monotonic_ns)
        root = Identity(activity.ProcessId, start)
        if any(pending.tree is not None and root in pending.tree.seen for pending in self._pending):
            raise Gone("killed for an earlier detection")
        try:
            return self._killer.start(root, activity.SandboxId)
        except Gone:
            if not start:  # whose children are its own cannot be told then
                raise
            return self._killer.orphans(root, activity.SandboxId)

    def _hold(self, detection: Detection, decision: Decision) -> tuple[str, str]:
        """Outcome and reason. What takes longer is the quarantine's to tell."""
        if self.quarantine is None:
            return "failed", "nothing here can quarantine"
        try:
            return "done", f"quarantine {self.quarantine(detection, decision.action == 'freeze')}"
        except NeverTouchError as error:
            return "never_touch", str(error)
        except PinfoldError as error:
            return "failed", str(error)
        except OSError as error:
            return "failed", _reason(error)

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
                Pending(detection, decision, now + SETTLE_NS, now, self._killer.orphans(root, activity.SandboxId))
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
        latency = 0 if outcome in {"intent", "announced"} else max(0, time.monotonic_ns() - activity.monotonic_ns)
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
