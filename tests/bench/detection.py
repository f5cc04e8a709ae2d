"""Whether every tunnel of tests/live/peers is detected, and how soon: with all rules, and by its behaviour alone.

The second time only the rules on derived events are loaded, every program runs from a copy of another name and the
outside listens on a port drawn at random. A tunnel counts where a rule of medium or above matched by the end of the
first connection that it relayed; SSH must also be told by its banner. What matches while nothing but the service
behind the tunnels runs counts for none of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import yaml
from msgspec import Struct

from tests.bench.harness import BenchError, Figure, at_least, one_line, unmeasured
from tests.bench.latency import SHIPPED
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

if TYPE_CHECKING:  # the peers need programs that the rest of the bench does not
    from tests.live.peers.network import Network
    from tests.live.peers.tunnel import Maker
    from tests.live.running import Sandbox

ALL, DERIVED, BANNER = "detected-all", "detected-derived", "detected-banner"
NAMES = (ALL, DERIVED, BANNER)
LEVELS = frozenset({"medium", "high", "critical"})
SSH = frozenset({"autossh", "dbclient", "paramiko"})  # besides ssh-…; stunnel's hides it
# Between the tunnel and its first use. Data that comes in after a pause is what a relay is known by (flows.pause_ms);
# whoever set a tunnel up comes back later than this.
PAUSE_S = 1.5
LOG_S = 1.0  # for the log, and for detectors that look once a second


class Rule(Struct, frozen=True):
    title: str = ""
    level: str = ""


class Line(Struct, frozen=True):
    """A line of the log, as far as it matters here."""

    kind: str
    time: str
    category: str = ""
    SandboxId: int = 0
    rule: Rule = Rule()
    Initiated: bool = False
    DestinationIp: str = ""
    ApplicationProtocol: str = ""
    MessageKind: str = ""

    @property
    def utc_ns(self) -> int:
        """Of RFC 3339 with nine digits."""
        return int(datetime.fromisoformat(f"{self.time[:19]}+00:00").timestamp()) * 10**9 + int(self.time[20:29])


class Seen(Struct, frozen=True):
    """What became of one tunnel. `failure`: it did not work, so that nothing was shown."""

    name: str
    title: str = ""  # of the first rule in time
    from_connect_ms: float | None = None
    from_use_ms: float = 0.0
    later: str = ""  # where that is no behaviour's: the first rule on one that matched in time, too
    banner: bool = False
    failure: str = ""

    @property
    def detected(self) -> bool:
        return bool(self.title)

    def __str__(self) -> str:
        if self.failure:
            return f"{self.name}: FAILED, {self.failure}"
        if not self.detected:
            return f"{self.name}: NOT DETECTED"
        connect = "no connect told" if self.from_connect_ms is None else f"{self.from_connect_ms:+.0f} ms from connect"
        later = f", then {self.later}" if self.later else ""
        return f"{self.name}: {self.title}, {connect}, {self.from_use_ms:+.0f} ms from use{later}"


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    figures = []
    if wanted & {ALL, BANNER}:
        figures += _figures(space, ALL, [SHIPPED], disguised=False)
    if DERIVED in wanted:
        figures += _figures(space, DERIVED, derived_rules(SHIPPED), disguised=True)
    return figures


def derived_rules(folder: Path) -> list[Path]:
    """The rules whose logsource is network_behavior."""
    found = []
    for path in sorted(folder.rglob("*.yml")):
        document = yaml.safe_load(path.read_bytes())
        if isinstance(document, dict) and document.get("logsource", {}).get("category") == "network_behavior":
            found.append(path)
    return found


def _figures(space: Workspace, name: str, rules: Sequence[Path], *, disguised: bool) -> list[Figure]:
    try:
        settings = {"rules": {"paths": [str(path) for path in rules]}}
        with sensor(space, settings) as watching:
            seen = _Trial(space, watching, disguised=disguised).all()
    except (BenchError, OSError, ImportError) as error:
        return [unmeasured(each, "tunnels", "all", error) for each in (name, *((BANNER,) if name == ALL else ()))]
    figures = [_figure(name, [one for one in seen if one.detected], seen, "; ".join(map(str, seen)))]
    if name == ALL:
        ssh = [one for one in seen if one.name.startswith("ssh-") or one.name in SSH]
        told = [one for one in ssh if one.banner]
        untold = ", ".join(one.name for one in ssh if not one.banner)
        figures.append(_figure(BANNER, told, ssh, f"not by its banner: {untold}" if untold else ""))
    return figures


def _figure(name: str, good: Sequence[Seen], seen: Sequence[Seen], note: str) -> Figure:
    return at_least(name, float(len(good)), "tunnels", float(len(seen)), note=note)


class _Trial:
    """All tunnels one after the other, each in a sandbox and a network of its own."""

    def __init__(self, space: Workspace, watching: Sensor, *, disguised: bool) -> None:
        self._space, self._watching, self._disguised = space, watching, disguised
        self._ordinary: frozenset[str] = frozenset()  # titles that match without any tunnel

    def all(self) -> list[Seen]:
        from tests.live.peers.tunnel import EVERYWHERE, making  # noqa: PLC0415 - see above
        from tests.live.peers.tunnels import TUNNELS  # noqa: PLC0415

        service = making(lambda stage: stage.tunnel(), 1, served_at=EVERYWHERE)
        self._ordinary = self._of_service(service)
        return [self._one(name, make) for name, make in TUNNELS.items()]

    def _one(self, name: str, make: Maker) -> Seen:
        self._space.tell(f"{'disguised ' if self._disguised else ''}{name}")
        try:
            with self._place() as (network, box):
                port = network.port() if self._disguised else 0
                with make(network, box, network.folder, renamed=self._disguised, port=port) as tunnel:
                    time.sleep(PAUSE_S)
                    began = time.time_ns()
                    if tunnel.use() != tunnel.page:
                        raise BenchError("it relayed something else than what was asked for")
                    ended = time.time_ns()
                    time.sleep(LOG_S)
                    return judge(name, self._lines(box.id), self._ordinary, began, ended)
        except Exception as error:  # one tunnel's failure, of whatever kind, is that tunnel's result
            return Seen(name, failure=f"{type(error).__name__}: {one_line(error, 120)}")

    def _of_service(self, make: Maker) -> frozenset[str]:
        with self._place() as (network, box), make(network, box, network.folder, renamed=self._disguised):
            time.sleep(PAUSE_S + LOG_S)
            return frozenset(line.rule.title for line in self._lines(box.id) if line.kind == "detection")

    @contextmanager
    def _place(self) -> Iterator[tuple[Network, Sandbox]]:
        from tests.live.peers.network import Network  # noqa: PLC0415
        from tests.live.running import Sandbox  # noqa: PLC0415

        box = Sandbox(self._space.sandboxes / f"tunnel-{self._space.chance.getrandbits(32):08x}")
        try:
            with Network() as network:
                yield network, box
        finally:
            box.remove()

    def _lines(self, sandbox_id: int) -> list[Line]:
        """Of one sandbox, in the order of their times. The last line may be half written."""
        decode = msgspec.json.Decoder(Line).decode
        whole = (line for line in self._watching.log_lines() if line.endswith(b"\n"))
        lines = [line for line in map(decode, whole) if line.SandboxId == sandbox_id]
        return sorted(lines, key=lambda line: line.utc_ns)


def judge(name: str, lines: Sequence[Line], ordinary: frozenset[str], began: int, ended: int) -> Seen:
    """`lines` of the tunnel's sandbox in the order of time; `began`, `ended`: UTC ns of its first use."""
    outward = ("network_connection", "network_flow")
    connect = next(
        (line for line in lines if line.category in outward and line.kind == "event" and _leaves(line)), None
    )
    deadline = ended + int(LOG_S * 1e9)
    matched = [
        line
        for line in lines
        if line.kind == "detection"
        and line.rule.level in LEVELS
        and line.rule.title not in ordinary
        and line.utc_ns <= deadline
    ]
    banner = any(
        line.category == "network_protocol" and (line.ApplicationProtocol, line.MessageKind) == ("ssh", "banner")
        for line in matched
        if line.utc_ns < began
    )
    if not matched:
        return Seen(name)
    first = matched[0]
    from_connect = None if connect is None else (first.utc_ns - connect.utc_ns) / 1e6
    later = next((line for line in matched if line.category == "network_behavior"), first)
    told = "" if later is first else f"{later.rule.title} at {(later.utc_ns - began) / 1e6:+.0f}"
    return Seen(name, first.rule.title, from_connect, (first.utc_ns - began) / 1e6, told, banner)


def _leaves(line: Line) -> bool:
    return line.Initiated and bool(line.DestinationIp) and not line.DestinationIp.startswith(("127.", "::1"))
