"""A quarantine as the ledger keeps it: what was asked for, what was done, and what is to be done yet."""

from __future__ import annotations

import os
import secrets
import time
from typing import Literal

from msgspec import Struct, field

from sensor.bpf.denials import Deny
from sensor.errors import UsageError

MOST_REASON = 1000  # characters
MOST_TTL_SECONDS = 366 * 86400
MOST_STOPPED = 16384
BOOT_ID = "/proc/sys/kernel/random/boot_id"

State = Literal["beginning", "held", "releasing", "released", "killing", "killed", "ended", "failed"]
STATES: tuple[State, ...] = ("beginning", "held", "releasing", "released", "killing", "killed", "ended", "failed")
OVER: frozenset[State] = frozenset({"released", "killed", "ended", "failed"})
StepState = Literal["waiting", "begun", "done", "failed", "skipped"]
STEPS = ("network", "sockets", "devices", "exec", "freeze", "evidence", "hold")
DENIED = ("network", "devices", "exec")  # one write into the kernel's map
UNDOING = ("kill", "thaw", "continue", "lift")
STEP_OUTCOMES = ("done", "failed", "skipped")


class Order(Struct, frozen=True):
    """What somebody asked for."""

    sandbox_id: int
    path: str  # of its cgroup below the mount: /a/b
    name: str
    reason: str
    operator: str  # "uid 0, pid 12, /usr/bin/pinfold", or "policy: class agents, detection 1f-a0/<rule>"
    ttl_seconds: int = 0  # 0: none
    on_expiry: Literal["release", "kill", "hold"] = "hold"
    cut: bool = True  # False: only frozen, so that its connections live on after a release
    freeze: bool = True
    loopback: bool = False  # allowed, inside a network namespace that is not the host's
    evidence: bool = True
    detection_id: str = ""
    since_ns: int = 0  # CLOCK_MONOTONIC of the event that it follows, for the metrics alone; 0: when it is asked for


class Step(Struct):
    name: str
    state: StepState = "waiting"
    detail: str = ""
    began_ns: int = 0  # UTC
    ended_ns: int = 0

    @property
    def over(self) -> bool:
        return self.state in {"done", "failed", "skipped"}


class Record(Struct):
    """To be read, and changed by this package alone."""

    id: str
    order: Order
    cgroup_id: int
    boot_id: str
    born_ns: int  # UTC, of the cgroup; 0 where it is not known
    state: State
    steps: list[Step]
    created_ns: int  # UTC
    expires_ns: int  # UTC; 0: never
    undone: list[Step] = field(default_factory=list)  # what a release or a kill did, in its order
    ended_ns: int = 0
    ended_by: str = ""  # the operator of the release or the kill
    ended_why: str = ""
    frozen_by: Literal["", "us", "somebody"] = ""  # written before the freeze begins; "us" is what a release undoes
    checked: bool = False  # everyone in it was held against the never-touch list
    found: bool = False  # in force, without a ledger entry
    by_signal: str = ""  # why its processes are stopped one by one, and not by the freezer
    deny: int = 0  # Deny, as it was put into the kernel
    stopped: list[tuple[int, int]] = field(default_factory=list)  # (tgid, start ticks), before their SIGSTOP
    spared: list[tuple[int, int]] = field(default_factory=list)  # those that were stopped when we came
    evidence: str = ""  # the archive
    expired: bool = False  # its time is over, and it is held on
    thawed: int = 0  # how often somebody thawed it
    remark: str = ""  # what an operator must know of it, beside its steps

    @property
    def over(self) -> bool:
        return self.state in OVER

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def undo(self, name: str) -> Step:
        for step in self.undone:
            if step.name == name:
                return step
        self.undone.append(Step(name))
        return self.undone[-1]


def new_record(order: Order, boot: str, born_ns: int, now_ns: int) -> Record:
    """`now_ns`: UTC."""
    return Record(
        id=f"q{now_ns // 1_000_000_000:x}-{secrets.token_hex(3)}",
        order=order,
        cgroup_id=order.sandbox_id,
        boot_id=boot,
        born_ns=born_ns,
        state="beginning",
        steps=[Step(name) for name in STEPS],
        created_ns=now_ns,
        expires_ns=now_ns + order.ttl_seconds * 1_000_000_000 if order.ttl_seconds else 0,
    )


def denial(order: Order) -> Deny:
    if not order.cut:
        return Deny(0)
    deny = Deny.NETWORK | Deny.DEVICES | Deny.EXEC
    return deny if order.loopback else deny | Deny.LOOPBACK


def boot_id() -> str:
    with open(BOOT_ID, encoding="ascii") as file:
        return file.read(64).strip()


def begin(step: Step) -> None:
    if step.state == "waiting":
        step.state, step.began_ns = "begun", time.time_ns()


def refuse_bad(order: Order) -> None:
    """:raises UsageError: what is asked for cannot be meant."""
    if not order.reason.strip():
        raise UsageError("a quarantine needs a reason: say why, for whoever finds it")
    if not order.operator.strip():
        raise UsageError("a quarantine needs an operator: who asks for it?")
    if len(order.reason) > MOST_REASON:
        raise UsageError(f"the reason is longer than {MOST_REASON} characters: put the rest where it can be kept")
    parts = order.path.split("/")
    if parts[0] or any(part in {"", ".", ".."} for part in parts[1:]) or "\0" in order.path:
        raise UsageError(f"{order.path!a}: expected the path of a cgroup below the mount, such as /pinfold/box")
    if not 0 < order.sandbox_id < 1 << 64:
        raise UsageError(f"{order.sandbox_id}: expected a cgroup's id")
    if not 0 <= order.ttl_seconds <= MOST_TTL_SECONDS:
        raise UsageError(f"a time to live of {order.ttl_seconds} s: expected 0 (none) to {MOST_TTL_SECONDS}")
    if len(os.fsencode(order.path)) >= 4096:
        raise UsageError("the path of the cgroup is longer than the kernel takes")
