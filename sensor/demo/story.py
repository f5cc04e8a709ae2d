"""The demo itself: the incident unwatched, then watched. Each claim is checked before it is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sensor.demo import show
from sensor.demo.acts import PAGE, PAGE_PORT, Act, acts
from sensor.demo.child import Child
from sensor.demo.gpu import Node, nodes
from sensor.demo.journal import Record
from sensor.demo.network import Network
from sensor.demo.peers import STUBS, Peers
from sensor.demo.undo import Undo
from sensor.demo.watch import AGENT, WORK, Sensor

PYTHON = "/usr/bin/python3"
WORK_PORT = 8080
RUN_SECONDS = 60.0  # for a program of the demo to end
SEEN_SECONDS = 15.0  # for what has happened to stand in the log
CAUSES = {"process_creation": "exec", "network_connection": "connect", "device_access": "open"}
WORK_PROGRAMS = ("gcc", "sum", "curl")  # what ordinary work must at least have run, by the log


class Story:
    """`tell` shows it all and returns what was expected and not seen, one line each.

    :param folder: an empty folder of mode 0711, for everything that the demo writes.
    """

    def __init__(self, instance: str, folder: Path, undo: Undo) -> None:
        self._instance, self._folder, self._undo = instance, folder, undo
        self._missed: list[str] = []
        self._killed: set[int] = set()
        self._network = Network(instance, undo)
        self._inside = self._network.enter(self._network.inside)
        self._peers = Peers(self._network, folder, undo)
        self._programs = self._made("programs")
        self._acts = acts(self._programs, self._peers, nodes(instance, undo))
        for stub in ("agent.py", "work.py"):
            shutil.copy(STUBS / stub, self._programs)
        page = self._made("page")
        (page / "index.html").write_text(PAGE)
        server = [PYTHON, "-m", "http.server", "--bind", "127.0.0.1", str(PAGE_PORT)]
        self._start("page", server, folder=page)

    def tell(self) -> list[str]:
        self._unwatched()
        show.heading("The sensor starts")
        sensor = Sensor(self._instance, self._folder, self._undo)
        show.row(AGENT, "enforce: no GPU is granted; what is detected, of level medium or above, is killed")
        show.row(WORK, "monitor: nothing is refused or killed")
        self._ordinary_work(sensor)
        self._incident(sensor)
        self._sum_up(sensor)
        return self._missed

    # --- unwatched ----------------------------------------------------------------------------

    def _unwatched(self) -> None:
        """That the incident works when nobody looks is what makes its failure below mean something."""
        show.heading("Without the sensor")
        for act in self._acts:
            if act.name == "tunnel":
                self._unwatched_tunnel(act)
                continue
            child = self._finish(self._start(f"unwatched {act.name}", act.command))
            worked = "EPERM" not in child.said() if act.device else "share accepted" in child.said()
            self._expect(worked, f"unwatched, {act.name} works")
            show.row(act.name, f"{act.title}: {child.last_line()}")

    def _unwatched_tunnel(self, act: Act) -> None:
        tunnel = self._start("unwatched tunnel", act.command)
        opened = self._undo.until(self._peers.tunnel_open, SEEN_SECONDS)
        fetched = self._peers.fetch_through_tunnel() if opened else ""
        tunnel.stop()
        if not self._expect(fetched == PAGE, "unwatched, the tunnel lets the outside read the sandbox's page"):
            show.row(act.name, tunnel.last_line())
        else:
            show.row(act.name, f"{act.title}: the outside reads a page of the sandbox")
        self._undo.until(lambda: not self._peers.tunnel_open(), SEEN_SECONDS)

    # --- watched ------------------------------------------------------------------------------

    def _ordinary_work(self, sensor: Sensor) -> None:
        show.heading(f"Ordinary work in {WORK}")
        command = [str(self._programs / "work.py"), str(self._made("work")), str(WORK_PORT)]
        child = self._finish(self._start(WORK, sensor.sandbox(WORK, command)))
        self._expect(child.status == 0, f"the work in {WORK} succeeds (status {child.status}: {child.last_line()})")
        show.row("work", child.last_line())

    def _incident(self, sensor: Sensor) -> None:
        show.heading(f"The incident in {AGENT}, by an agent's tool calls")
        plan, results = self._folder / "plan.json", self._folder / "results.jsonl"
        plan.write_text(json.dumps({act.name: act.command for act in self._acts}))
        before = {act.name: act.harm() for act in self._acts}
        agent = [str(self._programs / "agent.py"), str(plan), str(results)]
        child = self._finish(self._start(AGENT, sensor.sandbox(AGENT, agent)))
        self._expect(child.status == 0, f"the agent ends by itself (status {child.status}: {child.last_line()})")
        ended: dict[str, Any] = {}
        if results.exists():
            ended = {call["name"]: call for call in map(json.loads, results.read_text().splitlines())}
        for act in self._acts:
            if self._expect(act.name in ended, f"{act.name}: the agent got as far"):
                self._follow(sensor, act, ended[act.name], act.harm() - before[act.name])

    def _follow(self, sensor: Sensor, act: Act, call: dict[str, Any], harm: int) -> None:
        """One act: what the log says of it, and what the outside had of it."""
        show.row(act.name, act.title)
        if act.device:
            self._refused(sensor, act.name, act.device)
        self._undo.until(lambda: self._told(sensor, act), SEEN_SECONDS)
        detections = self._detections(sensor, act)
        for detection in detections:
            rule = detection["rule"]
            show.row("", f"detected   {rule['level']}: {rule['title']}")
        self._expect(bool(detections), f"{act.name}: detected")
        kills = [
            (response["latency_ns"], detection["category"], response["targets"])
            for detection in detections
            for response in sensor.journal.responses(detection)
            if response["action"] == "kill" and response["outcome"] == "done"
        ]
        if self._expect(bool(kills), f"{act.name}: killed by the sensor"):
            latency_ns, category, targets = min(kills)
            self._killed.update(targets)
            tgids = ", ".join(map(str, targets))
            show.row("", f"killed     process {tgids}, {latency_ns / 1e6:.1f} ms after its {CAUSES[category]}")
        self._expect(call["status"] == -9, f"{act.name}: ended by SIGKILL (status {call['status']})")
        if act.device:
            self._expect(call["output"] in {"", "EPERM\n"}, f"{act.name}: not opened ({call['output'].strip()})")
        elif self._expect(harm == 0, f"{act.name}: {act.harmless}"):
            show.row("", f"outside    {act.harmless}")

    def _detections(self, sensor: Sensor, act: Act) -> list[Record]:
        return [detection for detection in sensor.journal.detections(AGENT) if act.is_its(detection)]

    def _told(self, sensor: Sensor, act: Act) -> bool:
        """All that there is to read of an act that was killed: a detection, and how its kill ended."""
        sensor.journal.read()
        found = (sensor.journal.responses(detection) for detection in self._detections(sensor, act))
        return any(response["action"] == "kill" for responses in found for response in responses)

    def _refused(self, sensor: Sensor, name: str, node: Node) -> None:
        def refusals() -> list[Record]:
            sensor.journal.read()
            return [
                event
                for event in sensor.journal.events(AGENT, "device_access")
                if (event["DeviceMajor"], event["DeviceMinor"]) == (node.major, node.minor)
                and event["Verdict"] == "refused"
            ]

        if self._expect(self._undo.until(lambda: bool(refusals()), SEEN_SECONDS), f"{name}: refused"):
            event = refusals()[0]
            show.row("", f"refused    device {node.major}:{node.minor}, class {event['DeviceClass']}: EPERM")

    def _sum_up(self, sensor: Sensor) -> None:
        sensor.journal.read()
        silent = list(sensor.journal.detections(WORK))
        seen = [Path(event["Image"]).name for event in sensor.journal.events(WORK, "process_creation")]
        connections = len(list(sensor.journal.events(WORK, "network_connection")))
        for name in WORK_PROGRAMS:
            self._expect(any(name in image for image in seen), f"the log has {name} of {WORK}")
        self._expect(connections > 0, f"the log has a connection of {WORK}")
        for detection in silent:
            self._expect(False, f"{WORK} raised nothing (it raised: {detection['rule']['title']})")
        lost = sensor.lost()
        self._expect(lost == 0, f"no event was lost ({lost} were)")
        show.heading("Summary")
        show.row(
            AGENT, f"{len(list(sensor.journal.detections(AGENT)))} detections, {len(self._killed)} processes killed"
        )
        show.row(WORK, f"{len(seen)} programs and {connections} connections recorded, {len(silent)} detections")
        show.row("lost", f"{lost} events")

    # --- helpers ------------------------------------------------------------------------------

    def _made(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(mode=0o755)
        return folder

    def _start(self, name: str, command: list[str], folder: Path | None = None) -> Child:
        """In the inside namespace."""
        output = self._folder / f"{name.replace(' ', '-')}.out"
        return Child(name, [*self._inside, *command], output, self._undo, folder=folder)

    def _finish(self, child: Child) -> Child:
        ended = self._undo.until(lambda: child.status is not None, RUN_SECONDS)
        self._expect(ended, f"{child.name} ends within {RUN_SECONDS:.0f} s")
        return child

    def _expect(self, holds: bool, what: str) -> bool:
        if not holds:
            self._missed.append(what)
        return holds
