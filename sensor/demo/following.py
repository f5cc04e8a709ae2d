"""One act as the sensor's log has it: what was refused or cut, detected, killed, and what the outside had of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sensor.demo import show
from sensor.demo.acts import Act
from sensor.demo.gpu import Node
from sensor.demo.journal import Record
from sensor.demo.undo import Undo
from sensor.demo.watch import Sensor

SEEN_SECONDS = 20.0  # for what has happened to stand in the log
SHOWN = 2  # detections of an act; of the rest their number
LEVELS = ("critical", "high", "medium", "low", "informational")
CAUSES = {
    "process_creation": "exec",
    "network_connection": "connect",
    "network_protocol": "first bytes",
    "device_access": "open",
}


class Following:
    """`expect` notes what should hold and does not, and gives whether it holds."""

    def __init__(self, sensor: Sensor, undo: Undo, expect: Callable[[bool, str], bool]) -> None:
        self._journal, self._undo, self._expect = sensor.journal, undo, expect

    def follow(self, act: Act, call: dict[str, Any], harm: int) -> None:
        """`call`: how the agent's call ended; `harm`: what the outside has had of it."""
        show.row(act.name, act.title)
        if act.device:
            self._refused(act, act.device)
        if act.ending == "cut":
            self._cut(act)
        self._undo.until(lambda: self._is_told(act), SEEN_SECONDS)
        detections = self._detections(act)
        kill = self._first_kill(detections)
        self._detected(act, detections, kill)
        if act.ending == "relayed":
            self._relayed(act, detections)
        if act.ending == "cut":
            if act.got:
                self._fell_short(act, act.got)
            # The miner gives up, unless a rule has it killed meanwhile.
            self._expect(call["status"] in {1, -9}, f"{act.name}: came to nothing (status {call['status']})")
        else:
            self._killed(act, kill)
            self._expect(call["status"] == -9, f"{act.name}: ended by SIGKILL (status {call['status']})")
        if act.device:
            self._expect(call["output"] in {"", "EPERM\n"}, f"{act.name}: not opened ({call['output'].strip()})")
        elif act.harmless and self._expect(harm == 0, f"{act.name}: {act.harmless}"):
            show.fact("outside", act.harmless)
        if act.is_gone and self._expect(
            self._undo.until(act.is_gone, SEEN_SECONDS), f"{act.name}: over for the outside"
        ):
            show.fact("outside", "one page was read; then the tunnel was gone")

    # --- what the log has ---------------------------------------------------------------------

    def _detections(self, act: Act) -> list[Record]:
        return [detection for detection in self._journal.detections(act.agent) if act.is_its(detection)]

    def _is_told(self, act: Act) -> bool:
        """All that there is to read of an act: how its kill ended, or, where none is due, that its flow is over."""
        self._journal.read()
        detections = self._detections(act)
        if act.ending == "cut":
            return any(detection["category"] == "network_flow" for detection in detections)
        return self._first_kill(detections) is not None

    def _first_kill(self, detections: list[Record]) -> tuple[Record, Record] | None:
        """The detection that led to it, and the response."""
        kills = [
            (detection, response)
            for detection in detections
            for response in self._journal.responses(detection)
            if response["action"] == "kill" and response["outcome"] == "done"
        ]
        return min(kills, key=lambda kill: str(kill[1]["time"]), default=None)

    def _event(self, act: Act, category: str, holds: Callable[[Record], bool]) -> Record | None:
        """The first such, once it is logged."""
        found: list[Record] = []

        def look() -> bool:
            self._journal.read()
            found.extend(event for event in self._journal.events(act.agent, category) if holds(event))
            return bool(found)

        return found[0] if self._undo.until(look, SEEN_SECONDS) else None

    # --- what is shown of it ------------------------------------------------------------------

    def _refused(self, act: Act, node: Node) -> None:
        numbers = (node.major, node.minor)
        event = self._event(
            act,
            "device_access",
            lambda event: (event["DeviceMajor"], event["DeviceMinor"]) == numbers and event["Verdict"] == "refused",
        )
        if self._expect(event is not None, f"{act.name}: refused") and event is not None:
            show.fact("refused", f"device {node.major}:{node.minor}, class {event['DeviceClass']}: EPERM")

    def _cut(self, act: Act) -> None:
        cut = self._event(act, "network_flow", lambda event: event["EndReason"] == "cut" and act.is_its(event))
        denied = self._event(act, "network_protocol", lambda event: event["Denied"] and act.is_its(event))
        if self._expect(cut is not None and denied is not None, f"{act.name}: cut, and told so") and cut and denied:
            place = f"{cut['DestinationIp']}:{cut['DestinationPort']}"
            show.fact("cut", f"in the kernel: {denied['ApplicationProtocol']}, denied, to {place}")

    def _fell_short(self, act: Act, got: Callable[[], tuple[int, int]]) -> None:
        self._undo.until(lambda: got()[0] > 0, SEEN_SECONDS)  # the pool may learn later than the miner that it is over
        came, needed = got()
        if self._expect(0 < came < needed, f"{act.name}: what tells of it did not leave ({came} bytes of {needed})"):
            show.fact("outside", f"the pool got {came} bytes; Stratum shows in {needed}")

    def _detected(self, act: Act, detections: list[Record], kill: tuple[Record, Record] | None) -> None:
        """The most telling first; what came when the kill was under way already is only counted."""
        if not self._expect(bool(detections), f"{act.name}: detected"):
            return
        last = kill[0]["time"] if kill else max(detection["time"] for detection in detections)
        led = [each for each in detections if each["time"] <= last or (kill and each["event"] == kill[0]["event"])]
        led.sort(key=lambda detection: (LEVELS.index(detection["rule"]["level"]), detection["time"]))
        for detection in led[:SHOWN]:
            rule = detection["rule"]
            show.fact("detected", f"{rule['level']}: {rule['title']}")
        if (more := len(detections) - len(led[:SHOWN])) > 0:
            show.fact("", f"and {more} more")

    def _relayed(self, act: Act, detections: list[Record]) -> None:
        """The facts that the two verdicts rest on."""
        banners = [each for each in detections if each.get("ApplicationProtocol") == "ssh" and each.get("FromSandbox")]
        if self._expect(bool(banners), f"{act.name}: known by its banner"):
            place = f"{banners[0]['DestinationIp']}:{banners[0]['DestinationPort']}"
            show.fact("banner", f"{banners[0]['Software'].partition(' ')[0]}, to {place}")
        verdicts = [each for each in detections if each.get("Behavior") == "relay"]
        if not self._expect(bool(verdicts), f"{act.name}: known by what it does"):
            return
        verdict = max(verdicts, key=lambda each: int(each["Score"]))
        inner = self._event(act, "network_flow", lambda each: each["Phase"] == "ended" and _is_inward(each, verdict))
        if self._expect(inner is not None, f"{act.name}: the flow inward is told") and inner is not None:
            show.fact("inward", f"{inner['BytesOut']} bytes to {verdict['Inner']}, {inner['BytesIn']} back")
        moved = f"{verdict['BytesIn']} bytes in, {verdict['BytesOut']} out"
        show.fact("outward", f"{moved}: {verdict['Conservation']} % conserved")
        parts = verdict["ScoreParts"].replace(" ", ", ").replace("=", " ")
        show.fact("score", f"{verdict['Score']} of 100: {parts}")

    def _killed(self, act: Act, kill: tuple[Record, Record] | None) -> None:
        if not self._expect(kill is not None, f"{act.name}: killed by the sensor") or kill is None:
            return
        detection, response = kill
        tgids = ", ".join(map(str, response["targets"]))
        latency_ns, cause = response["latency_ns"], CAUSES.get(detection["category"], "event")
        if act.ending == "relayed" and (lag_ns := self._since_dial(act, detection)) is not None:
            latency_ns, cause = latency_ns + lag_ns, "dial inward"
        show.fact("killed", f"process {tgids}, {latency_ns / 1e6:.1f} ms after its {cause}")

    def _since_dial(self, act: Act, verdict: Record) -> int | None:
        """Nanoseconds from the dial to the verdict on it: what a verdict is drawn from takes its time."""
        dial = self._event(act, "network_connection", lambda event: _is_inward(event, verdict))
        event = self._journal.event_of(verdict)
        if not self._expect(dial is not None and event is not None, f"{act.name}: its dial is told"):
            return None
        return int(event["monotonic_ns"]) - int(dial["monotonic_ns"]) if dial and event else None


def _is_inward(event: Record, verdict: Record) -> bool:
    """Whether it is where the relay that the verdict is on leads to."""
    place = f"{event['DestinationIp']}:{event['DestinationPort']}"
    return (event["ProcessId"], place) == (verdict["ProcessId"], verdict["Inner"])
