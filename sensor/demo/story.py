"""The demo itself: the incident unwatched, then watched. Each claim is checked before it is shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sensor.demo import show
from sensor.demo.acts import PAGE, PAGE_PORT, Act, acts
from sensor.demo.child import Child
from sensor.demo.following import SEEN_SECONDS, Following
from sensor.demo.gpu import nodes
from sensor.demo.network import Network
from sensor.demo.peers import STUBS, Peers
from sensor.demo.undo import Undo
from sensor.demo.watch import AGENT, PATIENT, WORK, Sensor

PYTHON = "/usr/bin/python3"
WORK_PORT = 8080
RUN_SECONDS = 60.0  # for a program of the demo to end
LATER_SECONDS = 1.5  # longer than the pause after which the sensor takes data for someone's doing
WORK_PROGRAMS = ("gcc", "sum", "curl")  # what ordinary work must at least have run, by the log


class Story:
    """`tell` shows it all and returns what was expected and not seen, one line each.

    :param folder: an empty folder of mode 0711, for everything that the demo writes.
    """

    def __init__(self, instance: str, folder: Path, undo: Undo) -> None:
        self._instance, self._folder, self._undo = instance, folder, undo
        self._missed: list[str] = []
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
        show.row(PATIENT, "enforce: Stratum is cut; only what is critical is killed")
        show.row(WORK, "monitor: nothing is refused or killed")
        self._ordinary_work(sensor)
        show.heading(f"The incident in {AGENT}, by an agent's tool calls")
        self._incident(sensor, AGENT)
        show.heading(f"The same in {PATIENT}, where no name, argument or port tells of it")
        self._incident(sensor, PATIENT)
        self._sum_up(sensor)
        return self._missed

    # --- unwatched ----------------------------------------------------------------------------

    def _unwatched(self) -> None:
        """That the incident works when nobody looks is what makes its failure below mean something."""
        show.heading("Without the sensor")
        for act in self._acts:
            if act.is_tunnel:
                self._unwatched_tunnel(act)
                continue
            child = self._finish(self._start(f"unwatched {act.name}", act.command))
            worked = "EPERM" not in child.said() if act.device else "share accepted" in child.said()
            self._expect(worked, f"unwatched, {act.name} works")
            show.row(act.name, f"{act.title}: {child.last_line()}")

    def _unwatched_tunnel(self, act: Act) -> None:
        tunnel = self._start(f"unwatched {act.name}", act.command)
        opened = self._undo.until(self._peers.tunnel_open, SEEN_SECONDS)
        fetched = self._peers.fetch_through_tunnel() if opened else ""
        tunnel.stop()
        if not self._expect(fetched == PAGE, f"unwatched, {act.name} lets the outside read the sandbox's page"):
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

    def _incident(self, sensor: Sensor, agent: str) -> None:
        """Its tool calls, one after the other; then what the log has of each."""
        its = [act for act in self._acts if act.agent == agent]
        plan, results = self._folder / f"{agent}.plan.json", self._folder / f"{agent}.results.jsonl"
        plan.write_text(json.dumps({act.name: act.command for act in its}))
        before = {act.name: act.harm() for act in its}
        program = [str(self._programs / "agent.py"), str(plan), str(results)]
        child = self._start(agent, sensor.sandbox(agent, program))
        if any(act.ending == "relayed" for act in its):
            self._come_through(child)
        self._finish(child)
        self._expect(child.status == 0, f"{agent} ends by itself (status {child.status}: {child.last_line()})")
        ended: dict[str, Any] = {}
        if results.exists():
            ended = {call["name"]: call for call in map(json.loads, results.read_text().splitlines())}
        following = Following(sensor, self._undo, self._expect)
        for act in its:
            if self._expect(act.name in ended, f"{act.name}: {agent} got as far"):
                following.follow(act, ended[act.name], act.harm() - before[act.name])

    def _come_through(self, agent: Child) -> None:
        """Someone outside reads a page by way of the tunnel, once; not at once, as nobody waits for one to open."""
        self._undo.until(lambda: self._peers.tunnel_open() or agent.status is not None, RUN_SECONDS)
        self._undo.wait(LATER_SECONDS)
        self._expect(self._peers.fetch_through_tunnel() == PAGE, "watched, a tunnel that is let be lets the outside in")

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
        for agent in (AGENT, PATIENT):
            found, killed = len(list(sensor.journal.detections(agent))), len(sensor.journal.killed(agent))
            show.row(agent, f"{found} detections, {killed} process{'es' * (killed != 1)} killed")
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
