"""A sandbox's hour as the kernel tells it: a clock, processes, flows with counters, and a World that knows them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, TypeVar

from msgspec import structs
from msgspec.structs import replace

from sensor.configdetect import DetectSettings
from sensor.detect.detectors import Detectors
from sensor.detect.world import Busiest, Counters, Inversion, Living
from sensor.events.activity import (
    Activity,
    AnyActivity,
    DeviceAccess,
    Flow,
    NetworkBehavior,
    NetworkConnection,
    NetworkFlow,
    NetworkProtocol,
    ProcessCreation,
    ProcessTermination,
    SandboxChange,
)

MS = 10**6
SECOND = 10**9
START = 5_000 * SECOND
UTC = 1_700_000_000 * SECOND
SANDBOX = 4242
OUTSIDE = "203.0.113.10"
OWN = "198.51.100.2"
SEGMENT = 1448
PRIVATE = ("10.", "192.168.", "172.16.", "169.254.")
_EMPTY: dict[object, Any] = {str: "", int: 0, bool: False, bytes: b""}
Made = TypeVar("Made", bound=Activity)


@cache
def _empty(kind: type[Activity]) -> dict[str, Any]:
    fields: dict[str, Any] = {field.name: _EMPTY.get(field.type) for field in structs.fields(kind)}
    return fields | {"SandboxName": "agent-1", "SandboxClass": "default", "User": "root"}


def make(kind: type[Made], **given: Any) -> Made:
    """An activity; what is not given is empty."""
    return kind(**(_empty(kind) | given))


class FakeWorld:
    def __init__(self) -> None:
        self.now: dict[int, Counters] = {}
        self.held: dict[int, tuple[int, ...]] = {}
        self.masters: dict[int, tuple[int, ...]] = {}
        self.pipes: dict[int, tuple[int, ...]] = {}
        self.streams: dict[int, tuple[str, str, str, int, int, int]] = {}
        self.parents: dict[int, int] = {}
        self.families: list[set[int]] = []
        self.allowed: set[str] = set()
        self.gpus: set[int] = set()
        self.usage_ns: int | None = 0
        self.scans = 0
        self.looks = 0
        self.reads = 0
        self.at_dial: dict[tuple[int, int], Counters] = {}
        self.living: tuple[Living, ...] = ()
        self.busy: Busiest | None = None

    def counters(self, cookie: int) -> Counters | None:
        self.reads += 1
        return self.now.get(cookie)

    def counters_at_dial(self, inner: int, outer: int) -> Counters | None:
        return self.at_dial.get((inner, outer))

    def holders(self, sandbox_id: int, inode: int, most: int = 16) -> tuple[int, ...]:
        self.scans += 1
        return self.held.get(inode, ())[:most]

    def pty_masters(self, sandbox_id: int, number: int) -> tuple[int, ...]:
        self.scans += 1
        return self.masters.get(number, ())

    def pipe_peers(self, sandbox_id: int, inode: int, not_tgid: int) -> tuple[int, ...]:
        self.scans += 1
        return tuple(tgid for tgid in self.pipes.get(inode, ()) if tgid != not_tgid)

    def standard_streams(self, tgid: int) -> tuple[str, str, str, int, int, int]:
        self.looks += 1
        return self.streams.get(tgid, ("", "", "", 0, 0, 0))

    def cpu_usage_ns(self, sandbox_id: int) -> int | None:
        return self.usage_ns

    def sandboxes(self) -> tuple[Living, ...]:
        return self.living

    def busiest(self, living: Living) -> Busiest | None:
        self.scans += 1
        return self.busy

    def cpus(self) -> int:
        return 8

    def gpu_held(self, sandbox_id: int, tgid: int) -> bool:
        return tgid in self.gpus

    def egress_allowed(self, sandbox_class: str, address: str, port: int, hostname: str) -> bool:
        return address in self.allowed or hostname in self.allowed

    def parent(self, tgid: int) -> int:
        return self.parents.get(tgid, 0)

    def family(self, tgid: int) -> tuple[int, ...]:
        return next((tuple(sorted(family)) for family in self.families if tgid in family), (tgid,))


class Scene:
    """Everything produced is in `produced`. Methods that open a flow give its cookie."""

    def __init__(self, settings: DetectSettings | None = None) -> None:
        self.world = FakeWorld()
        self.detectors = Detectors(settings or DetectSettings(), self.world)
        self.at = START
        self.produced: list[NetworkBehavior] = []
        self.ids: set[tuple[int, int]] = set()
        self.flows: dict[int, NetworkFlow] = {}
        self._position = 0
        self._next = 1000

    def of(self, behavior: str) -> list[NetworkBehavior]:
        return [event for event in self.produced if event.Behavior == behavior]

    def score(self, behavior: str) -> int:
        return max((event.Score for event in self.of(behavior)), default=0)

    def wait(self, seconds: float) -> None:
        """Ticks as the pipeline would: each second, and each 100 ms while something waits."""
        end = self.at + int(seconds * SECOND)
        while self.at < end:
            self.at = min(end, self.at + (100 * MS if self.detectors.busy else SECOND))
            self._take(self.detectors.tick(self.at, UTC + self.at))

    def tell(self, activity: AnyActivity | SandboxChange) -> list[NetworkBehavior]:
        produced = self.detectors.observe(activity)
        for number, event in enumerate(produced, 1):
            assert (event.generation, event.position) == (activity.generation, activity.position + number)
        self._take(produced)
        return produced

    def process(
        self, tgid: int, image: str, parent: int = 1, *, stdin: tuple[str, int] = ("null", 0),
        stdout: tuple[str, int] | None = None, stderr: tuple[str, int] | None = None, sandbox: int = SANDBOX,
    ) -> list[NetworkBehavior]:  # fmt: skip
        """An exec; the streams default to standard input's."""
        stdout, stderr = stdout or stdin, stderr or stdout or stdin
        self.world.parents[tgid] = parent
        return self.tell(
            make(
                ProcessCreation,
                **self._common(tgid, image, parent, sandbox),
                StandardInput=stdin[0],
                StandardOutput=stdout[0],
                StandardError=stderr[0],
                StandardInputInode=stdin[1],
                StandardOutputInode=stdout[1],
                StandardErrorInode=stderr[1],
            )
        )

    def exits(self, tgid: int, sandbox: int = SANDBOX) -> None:
        self.tell(make(ProcessTermination, **self._common(tgid, "/bin/x", 1, sandbox)))

    def fork(self, *tgids: int) -> None:
        self.world.families.append(set(tgids))

    def connect(
        self, tgid: int, address: str, port: int, *, image: str = "/usr/bin/prog", initiated: bool = True,
        protocol: str = "tcp", source: tuple[str, int] | None = None, sandbox: int = SANDBOX, told: bool = True,
        guid: str = "", inode: bool = True,
    ) -> int:  # fmt: skip
        self._next += 1
        cookie = self._next
        loopback = address.startswith("127.") or address == "::1"
        source = source or ("127.0.0.1" if loopback else OWN, 30_000 + cookie % 30_000)
        common = self._common(tgid, image, self.world.parents.get(tgid, 1), sandbox)
        if guid:
            common["ProcessGuid"] = guid
        self.flows[cookie] = make(
            NetworkFlow,
            **common,
            Protocol=protocol,
            Initiated=initiated,
            DestinationIp=address,
            DestinationPort=port,
            DestinationIsIpv6=":" in address,
            DestinationIsLoopback=loopback,
            DestinationIsPrivate=loopback or address.startswith(PRIVATE),
            SourceIp=source[0],
            SourcePort=source[1],
            SocketCookie=cookie,
            SocketInode=cookie + 7000 if inode else 0,
            Phase="established",
            Count=1,
        )
        self.world.now[cookie] = Counters(0, 0, 0, 0, self.at)
        if told:
            self.tell(self.flows[cookie])
        return cookie

    def inode(self, cookie: int) -> int:
        return cookie + 7000

    def move(self, cookie: int, out: int = 0, in_: int = 0, packets: int = 0) -> None:
        """Bytes on a flow, in segments. What only acknowledges them has no payload, and is not counted."""
        now = self.world.now[cookie]
        sent, got = -(-out // SEGMENT), -(-in_ // SEGMENT)
        if packets and in_:
            got = packets
        self.world.now[cookie] = Counters(
            now.bytes_out + out, now.bytes_in + in_, now.packets_out + sent, now.packets_in + got, self.at,
        )  # fmt: skip

    def push(self, cookie: int, length: int, *, idle: float = 2.0, packets: int = 0, at: int = 0) -> None:
        """Data comes in first, after a pause: the record has the counters from before."""
        before = self.world.now[cookie]
        self.world_push(cookie, length, packets)
        self._inversion(cookie, before, length, int(idle * SECOND), at or self.at)

    def world_push(self, cookie: int, length: int, packets: int = 0) -> None:
        self.move(cookie, in_=length, packets=packets)

    def _inversion(self, cookie: int, before: Counters, length: int, idle_ns: int, at: int) -> None:
        flow = self.flows[cookie]
        self._position += 8
        inversion = Inversion(
            7, self._position, UTC + at, at, flow.SandboxId, cookie, idle_ns, before.bytes_out,
            before.bytes_in, before.packets_out, before.packets_in, min(length, SEGMENT), 1,
        )  # fmt: skip
        produced = self.detectors.inversion(inversion)
        for number, event in enumerate(produced, 1):
            assert (event.generation, event.position) == (7, inversion.position + number)
        self._take(produced)

    def recognise(self, cookie: int, name: str, *, from_sandbox: bool = True, **more: Any) -> list[NetworkBehavior]:
        flow = self.flows[cookie]
        fields = {field: getattr(flow, field) for field in Flow.__struct_fields__}
        given = {"ApplicationProtocol": name, "FromSandbox": from_sandbox, "Certain": True} | more
        return self.tell(make(NetworkProtocol, **(fields | self._stamp() | given)))

    def end(self, *cookies: int) -> None:
        for cookie in cookies:
            self._phase(cookie, "ended")
            del self.world.now[cookie]

    def sample(self, cookie: int) -> None:
        self._phase(cookie, "sample")

    def unix(self, tgid: int, path: str, *, verdict: str = "allowed") -> list[NetworkBehavior]:
        return self.tell(self._connection(tgid, "unix", "", 0, verdict, path))

    def attempt(self, tgid: int, address: str, port: int, verdict: str = "allowed") -> list[NetworkBehavior]:
        return self.tell(self._connection(tgid, "tcp", address, port, verdict, ""))

    def device(self, tgid: int, kind: str = "tun", **more: Any) -> list[NetworkBehavior]:
        own = {"DeviceClass": kind, "Access": "read,write", "Verdict": "allowed", "PriorVerdict": "allowed"}
        return self.tell(make(DeviceAccess, **(self._common(tgid, "/usr/bin/prog", 1, SANDBOX) | own | more)))

    def sandbox_ends(self, sandbox: int = SANDBOX) -> None:
        ids = (7, self._stamp()["position"], UTC + self.at, self.at)
        self.tell(SandboxChange(*ids, "ended", sandbox, "agent-1", "default", "a", sandbox, "none", 0, None))

    def _connection(
        self, tgid: int, protocol: str, address: str, port: int, verdict: str, path: str
    ) -> NetworkConnection:
        loopback = address.startswith("127.")
        return make(
            NetworkConnection,
            **self._common(tgid, "/usr/bin/prog", 1, SANDBOX),
            Protocol=protocol,
            Initiated=True,
            DestinationIp=address,
            DestinationPort=port,
            DestinationPath=path,
            DestinationIsLoopback=loopback,
            DestinationIsPrivate=loopback or address.startswith(PRIVATE),
            Verdict=verdict,
            Count=1,
            FirstSeenNs=self.at,
            LastSeenNs=self.at,
            SocketMakerProcessId=tgid,
        )

    def _phase(self, cookie: int, phase: str) -> None:
        flow, now = self.flows[cookie], self.world.now[cookie]
        self.tell(
            replace(
                flow, **self._stamp(), Phase=phase, DurationMs=(self.at - flow.monotonic_ns) // MS,
                BytesOut=now.bytes_out, BytesIn=now.bytes_in, PacketsOut=now.packets_out, PacketsIn=now.packets_in,
            )
        )  # fmt: skip

    def _stamp(self) -> dict[str, Any]:
        self._position += 8
        return {"generation": 7, "position": self._position, "time_ns": UTC + self.at, "monotonic_ns": self.at}

    def _common(self, tgid: int, image: str, parent: int, sandbox: int) -> dict[str, Any]:
        return self._stamp() | {
            "SandboxId": sandbox,
            "CgroupId": sandbox,
            "ProcessId": tgid,
            "ProcessGuid": f"{tgid}-1",
            "Image": image,
            "CommandLine": image,
            "ParentProcessId": parent,
        }

    def _take(self, produced: Iterable[NetworkBehavior]) -> None:
        for event in produced:
            assert (event.generation, event.position) not in self.ids
            self.ids.add((event.generation, event.position))
            assert 0 <= event.Score <= 100
            assert event.Score == max(0, min(100, sum(int(part.split("=")[1]) for part in event.ScoreParts.split())))
            self.produced.append(event)
