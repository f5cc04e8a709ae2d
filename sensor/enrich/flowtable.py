"""Living flows, as far as user space knows them: bounded, the oldest go."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque

from msgspec import Struct

from sensor.enrich.protocols.result import Found
from sensor.enrich.reassembly import Beginning
from sensor.events import layouts
from sensor.events.layouts import FlowFlag, Payload

Key = tuple[int, int]  # cookie, start
_TCP = 6
_INITIATED, _ADOPTED = int(FlowFlag.INITIATED), int(FlowFlag.ADOPTED)
UNHEARD = 4  # a flow that was not heard of for so many samples has ended, and the record of it was lost


class Flow(Struct, gc=False, eq=False):
    """What is kept of a living flow. `told` has a bit for each direction whose protocol was told."""

    cookie: int
    started_ns: int
    slot: int
    sandbox_id: int
    tgid: int
    exec_id: int
    cgroup_id: int
    inode: int
    protocol: int
    family: int
    initiated: bool
    local: bytes
    remote: bytes
    local_port: int
    remote_port: int
    # Another flow of its program image when it began: cookie, bytes out and in, packets out and in
    outer: tuple[int, int, int, int, int] | None = None
    checked_ns: int = 0
    out: Beginning | None = None
    in_: Beginning | None = None
    told: int = 0
    tried_out: int = 0  # bytes out and in that dissectors have seen already
    tried_in: int = 0
    held_ns: int = 0  # since when recognised bytes wait for more; 0: none do
    hints: tuple[Found | None, Found | None] = (None, None)  # out and in: what was told before the rest had come
    adopted: bool = False  # it was there before the probes
    heard_ns: int = 0  # its last record; 0: none, only what it said is known


class FlowTable:
    """At most `limit`; `counters` has how many were pushed out."""

    def __init__(self, limit: int, counters: Counter[str]) -> None:
        self.living: OrderedDict[Key, Flow] = OrderedDict()  # oldest first
        self.by_cookie: dict[int, Flow] = {}  # the newest of each socket
        self._limit = limit
        self._counters = counters
        self._turns: deque[Key] = deque()  # living flows, and some that have ended, in the order of their next look

    def add(self, key: Key, flow: Flow) -> Key | None:
        """The one that had to go for it."""
        gone = None
        if len(self.living) >= self._limit:
            gone = next(iter(self.living))
            self.remove(gone)
            self._counters["flows_forgotten"] += 1
        self.living[key] = flow
        self._turns.append(key)
        self.by_cookie[flow.cookie] = flow
        return gone

    def find(self, flow: Flow) -> None:
        """One that the kernel has, and of which an earlier run was told."""
        key = (flow.cookie, flow.started_ns)
        if key not in self.living:
            self.add(key, flow)

    def remove(self, key: Key) -> None:
        flow = self.living.pop(key, None)
        if flow is not None and self.by_cookie.get(flow.cookie) is flow:
            del self.by_cookie[flow.cookie]

    def of_sandbox(self, sandbox_id: int) -> list[Key]:
        return [key for key, flow in self.living.items() if flow.sandbox_id == sandbox_id]

    def due(self, now_ns: int, sample_ns: int, idle_ns: int, most: int) -> list[Flow]:
        """Living flows that the kernel should look at: to be sampled, or over if they went quiet. One that it told
        nothing of, such as a look-up among many, is let go of: if it lives, what the kernel says brings it back."""
        found: list[Flow] = []
        for _ in range(min(most, len(self._turns))):
            key = self._turns.popleft()
            flow = self.living.get(key)
            if flow is None:
                continue
            if now_ns - flow.checked_ns >= (sample_ns if flow.protocol == _TCP else min(sample_ns, idle_ns)):
                flow.checked_ns = now_ns
                found.append(flow)
                if not flow.heard_ns or now_ns - flow.heard_ns >= UNHEARD * max(sample_ns, idle_ns):
                    self.remove(key)
                    continue
            self._turns.append(key)
        return found


def of_record(r: layouts.Flow) -> Flow:
    return Flow(
        r.cookie, r.started_ns, r.slot, r.sandbox_id, r.tgid, r.exec_id, r.cgroup_id, r.inode, r.protocol, r.family,
        bool(r.flow_flags & _INITIATED), r.local, r.remote, r.local_port, r.remote_port, checked_ns=r.time_ns,
        adopted=bool(r.flow_flags & _ADOPTED),
    )  # fmt: skip


def of_payload(r: Payload) -> Flow:
    return Flow(
        r.cookie, r.started_ns, r.slot, r.sandbox_id, r.tgid, r.exec_id, r.cgroup_id, 0, r.protocol, r.family,
        bool(r.flow_flags & _INITIATED), r.local, r.remote, r.local_port, r.remote_port, checked_ns=r.time_ns,
        adopted=bool(r.flow_flags & _ADOPTED),
    )  # fmt: skip
