"""What watching costs: exec, connect, open, system calls, bytes on loopback and whole requests, outside and inside,
the sensor on against off, peers beside it.

Each round has `off` twice (their difference is what chance shows), `sensor`, and the peers, in an order drawn anew. For
every round the sensor is started with its pins in place, and after it stopped and detached: in `off` no hook has a
program of its. Its pins stay, since a cold start takes seconds, in which a shared machine becomes another one. What
takes no peer long enough to compare, bytes and requests, has rounds of its own, and more of them."""

from __future__ import annotations

import os
import stat
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from msgspec import Struct

from tests.bench import peers, web
from tests.bench.harness import (
    BenchError,
    Figure,
    Measurements,
    Peer,
    Rounds,
    alternate,
    at_least,
    at_most,
    half_quartile_range,
    median_interval,
    one_line,
    unmeasured,
)
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

TUN = Path("/dev/net/tun")  # of a class that is reported, and opens for root without hardware behind it
OPERATIONS: dict[str, tuple[str, ...]] = {
    "exec": ("execloop",),
    "connect": ("connectloop",),
    "connect-established": ("connectloop", "-l", "-p", "21000"),
    "connect-udp": ("connectloop", "-u"),
    "open": ("openloop", "TUN"),
    "open-null": ("openloop", "/dev/null"),
    "call": ("callloop",),  # mmap and munmap: the former asks for a capability
    "shm-write": ("callloop", "-w", "/dev/shm/pinfold-bench"),  # for each page of a tmpfs, too
    "gate": ("callloop", "-g"),  # getppid, with `syscalls: full`
    # In turns with a reference that no hook sees; what counts is how many times as long an operation took.
    "throughput": ("throughput", "-r"),  # an operation is 128 KiB through one flow
    "requests": ("requests", "-r", "-p", "PORT"),  # all to one address, where a real server is
    "requests-bare": ("requests", "-r"),  # to a child that does nothing else: little but the kernel's own work
}
EXPECTED = {"connect": "111"}  # ECONNREFUSED: nobody listens there
OFF = ("off", "off-again")
# Row → operation, place, limit in percent (None: shown, not judged).
ROWS: dict[str, tuple[str, str, float | None]] = {
    "exec-outside": ("exec", "outside", 1),
    "connect-outside": ("connect", "outside", 1),
    "open-outside": ("open", "outside", 1),
    "exec-beside": ("exec", "beside", None),
    "connect-beside": ("connect", "beside", None),
    "open-beside": ("open", "beside", None),
    "exec-inside": ("exec", "inside", 3),
    "connect-inside": ("connect", "inside", 6),
    "connect-established-inside": ("connect-established", "inside", None),
    "connect-udp-inside": ("connect-udp", "inside", None),
    "open-inside": ("open", "inside", 5),
    "open-null-inside": ("open-null", "inside", 5),
    "call-cost-outside": ("call", "outside", 1),
    "call-cost-inside": ("call", "inside", 5),
    "call-shm-outside": ("shm-write", "outside", 1),
    "call-shm-inside": ("shm-write", "inside", 5),
    "call-gate-outside": ("gate", "outside", None),
    "call-gate-inside": ("gate", "inside", None),
    "throughput-outside": ("throughput", "outside", 1),
    "throughput-inside": ("throughput", "inside", 2),
    "requests-outside": ("requests", "outside", 1),
    "requests-inside": ("requests", "inside", 5),
    "requests-bare-inside": ("requests-bare", "inside", None),
}
MOST_BY_CHANCE = 3.0  # percent
RATIO = "exec-inside-vs-auditd"
RATIO_LIMIT = 5.0
NAMES = (*ROWS, RATIO)
PEERS = ("auditd", "bpftrace", "strace")
PEERED = ("exec", "connect", "open")  # what the peers observe, too
ALONE = ("throughput", "requests", "requests-bare")
GATED = ("gate",)  # with a sensor of its own
MORE = 3  # rounds, of what is measured alone


class Observer(Struct, frozen=True):
    """How an arm observes one operation: a context to measure in, and what to put before the workload."""

    observe: Callable[[str], AbstractContextManager[object]] = lambda _: nullcontext()
    wrap: Callable[[str], list[str]] = lambda _: []
    everywhere: bool = True  # also outside; peers are compared inside only


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    rows = {name: row for name, row in ROWS.items() if name in wanted or (name == "exec-inside" and RATIO in wanted)}
    figures, rounds = [], Rounds()
    for apart in ((), ALONE, GATED):
        chosen = {
            name: row for name, row in rows.items() if (row[0] in apart if apart else row[0] not in (*ALONE, *GATED))
        }
        if chosen:
            workloads = sorted({(operation, place) for operation, place, _ in chosen.values()})
            settings = {"syscalls": "full"} if apart == GATED else {}
            many = space.plan.rounds * (MORE if apart == ALONE else 1)
            measured = _Campaign(space, workloads, many, settings).measure()
            figures += [_row(measured, name, *row) for name, row in chosen.items()]
            rounds = rounds if apart else measured
    return [*figures, *([_ratio(rounds)] if RATIO in wanted else [])]


class _Campaign:
    def __init__(
        self, space: Workspace, workloads: list[tuple[str, str]], rounds: int, settings: dict[str, str]
    ) -> None:
        self.settings = settings
        self.space = space
        self.workloads = workloads
        self.rounds = rounds
        self.places = {"outside": space.outside, "beside": space.shared / "service", "inside": space.sandboxes / "box"}
        self.device = _tun(space)

    def measure(self) -> Rounds:
        with sensor(self.space, {"cpus": self.space.others} | self.settings) as watching:
            watching.stop()
            watching.detach()
            arms: dict[str, Callable[[], AbstractContextManager[Observer]]] = {
                OFF[0]: lambda: nullcontext(Observer()),
                OFF[1]: lambda: nullcontext(Observer()),
                "sensor": lambda: _watching(watching),
            }
            if any(place == "inside" and operation in PEERED for operation, place in self.workloads):
                arms |= {"auditd": self._auditd, "bpftrace": self._bpftrace, "strace": self._strace}
            return alternate(arms, self._arm, self.rounds, self.space.chance, self.space.tell)

    def _arm(self, arm: str, observer: Observer) -> Measurements:
        workloads = [
            (operation, place)
            for operation, place in self.workloads
            if observer.everywhere or (place == "inside" and operation in PEERED)
        ]
        self.space.chance.shuffle(workloads)
        measured = {}
        with self.space.cgroup(self.places["inside"]):
            for operation, place in workloads:
                with observer.observe(operation):
                    measured[f"{operation} {place}"] = self._once(operation, place, observer.wrap(operation))
        return measured

    def _once(self, operation: str, place: str, wrap: list[str]) -> float:
        if "PORT" in OPERATIONS[operation]:
            with web.server(self.space, self.places[place]) as port:
                return self._measured(operation, place, wrap, port)
        return self._measured(operation, place, wrap)

    def _measured(self, operation: str, place: str, wrap: list[str], port: int = 0) -> float:
        bounds = ("-n", 10_000_000, "-t", self.space.plan.seconds, "-c", self.space.core)
        program, *arguments = self._command(operation)
        arguments = [str(port) if argument == "PORT" else argument for argument in arguments]
        report = self.space.run(program, *bounds, *arguments, cgroup=self.places[place], wrap=wrap)
        if set(report["errno"]) != {EXPECTED.get(operation, "0")}:
            raise BenchError(f"{operation} {place}: outcomes by errno {report['errno']}")
        return float(report.get("ratio", report["ns"]))

    def _command(self, operation: str) -> list[str]:
        return [self.device if argument == "TUN" else argument for argument in OPERATIONS[operation]]

    def _trigger(self, operation: str) -> peers.Trigger:
        program, *arguments = self._command(operation)
        return lambda: self.space.run(program, "-n", 5, *arguments, cgroup=self.space.outside)

    @contextmanager
    def _auditd(self) -> Iterator[Observer]:
        with peers.auditd(self.space) as running:
            yield Observer(
                lambda operation: running.watching(
                    operation, self._trigger(operation), self.device if operation == "open" else ""
                ),
                everywhere=False,
            )

    @contextmanager
    def _bpftrace(self) -> Iterator[Observer]:
        yield Observer(
            lambda operation: peers.bpftrace(self.space, operation, self._trigger(operation)), everywhere=False
        )

    @contextmanager
    def _strace(self) -> Iterator[Observer]:
        yield Observer(wrap=lambda operation: peers.strace(self.space, operation), everywhere=False)


@contextmanager
def _watching(watching: Sensor) -> Iterator[Observer]:
    watching.start()
    try:
        yield Observer()
    finally:
        watching.stop()
        watching.detach()


def _tun(space: Workspace) -> str:
    if TUN.exists():
        return str(TUN)
    made = space.folder / "tun"
    os.mknod(made, stat.S_IFCHR | 0o600, os.makedev(10, 200))
    return str(made)


def _row(rounds: Rounds, name: str, operation: str, place: str, limit: float | None) -> Figure:
    workload = f"{operation} {place}"
    target = "-" if limit is None else f"<= {limit:g}"
    beside = _peers(rounds, workload) if place == "inside" and operation in PEERED else {}
    try:
        slower = rounds.slowdown("sensor", workload, OFF)
        control = rounds.slowdown(OFF[1], workload, OFF[:1])
    except BenchError as error:
        return unmeasured(name, "% slower", target, error, beside)
    value, spread = statistics.median(slower), half_quartile_range(slower)
    chance = max(abs(end) for end in median_interval(control))
    off = statistics.median(
        measured[OFF[0]][workload] for measured in rounds.samples if workload in measured.get(OFF[0], {})
    )
    unit = f"{off:.2f} references" if operation in ALONE else f"{off:,.0f} ns"
    note = (
        f"{unit} when off; off against off: median {statistics.median(control):+.2f} %,"
        f" within {chance:.2f} % by chance; {len(slower)} rounds"
    )
    if limit is None:
        return Figure(name, value, "% slower", target, None, spread, beside, note)
    if place == "outside":
        # A run in which chance moves the median by far more than what is looked for shows nothing, and must not
        # pass for having shown it.
        if chance > MOST_BY_CHANCE:
            note = f"too noisy to tell; {note}"
            return Figure(name, value, "% slower", f"<= {limit:g}", False, spread, beside, note)
        # Within the limit, or within what off against off shows in the same run.
        limit = max(limit, chance)
    return at_most(name, value, "% slower", limit, spread=spread, peers=beside, note=note)


def _peers(rounds: Rounds, workload: str) -> dict[str, Peer]:
    beside = {}
    for peer in PEERS:
        try:
            slower = rounds.slowdown(peer, workload, OFF)
            beside[peer] = Peer(statistics.median(slower), half_quartile_range(slower))
        except BenchError as error:
            beside[peer] = Peer(None, note=one_line(error))
    return beside


def _ratio(rounds: Rounds) -> Figure:
    """How many times less the sensor slows exec than auditd does."""
    unit, target = "times less", f">= {RATIO_LIMIT:g}"
    try:
        ours = statistics.median(rounds.slowdown("sensor", "exec inside", OFF))
        theirs = statistics.median(rounds.slowdown("auditd", "exec inside", OFF))
        control = rounds.slowdown(OFF[1], "exec inside", OFF[:1])
    except BenchError as error:
        return unmeasured(RATIO, unit, target, error)
    # A slowdown that cannot be told from none would make any ratio: it counts as what chance alone shows.
    floor = max(abs(end) for end in median_interval(control))
    value = theirs / max(ours, floor, 0.01)
    note = f"auditd {theirs:.2f} % against {ours:.2f} %, the latter taken as {max(ours, floor):.2f} % at least"
    return at_least(RATIO, value, unit, RATIO_LIMIT, note=note)
