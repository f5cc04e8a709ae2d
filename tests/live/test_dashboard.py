"""Every query of the Grafana dashboard, asked of a real Prometheus that scrapes a real sensor at work."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest

from sensor.config import load
from sensor.control.client import Client
from sensor.demo.acts import acts
from sensor.demo.child import Child
from sensor.demo.gpu import nodes
from sensor.demo.network import Network
from sensor.demo.peers import STUBS, Peers
from sensor.demo.undo import Undo, remove_tree
from sensor.demo.watch import AGENT, PATIENT, WORK, Sensor, free_port
from tests.live.names import unique
from tests.packaging.test_grafana import PANELS
from tests.packaging.tools import tool

SCRAPE_SECONDS = 1
# As Grafana computes it: four scrapes. Ranges that the panels fix stay as they are.
VARIABLES = {"$__rate_interval": f"{4 * SCRAPE_SECONDS}s", "$instance": ".+"}
ROUNDS = 3
PAUSE_SECONDS = 6.0  # longer than the rate interval: what a round did has passed out of it
READY_SECONDS = 60.0
END_SECONDS = 60.0
# Panels, or single queries of one, that the workload leaves as they are. Data there must be, all the same.
STEADY = {
    "Requests B": "nobody is refused",
    "Build": "a fact",
    "Enforcement": "nobody disarms",
    "Lost, 1 h": "nothing is lost",
    "Lost events": "nothing is lost",
    "Names not written": "no class has a list of names",
    "Sandboxes and processes C": "nothing is lost",
    "Rules": "none is added",
    "Restarts and reloads": "nothing is restarted or reloaded",
    "Replayed and missed": "nothing is replayed",
}
QUERIES = [
    pytest.param(f"{panel['title']} {target['refId']}", target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]

# A flow that lives longer than a scrape, so that gauges see it and its process.
HOLD = """
import socket, time
server = socket.create_server(("127.0.0.1", 0))
with socket.create_connection(server.getsockname()) as client, server.accept()[0] as accepted:
    accepted.sendall(b"x")
    client.recv(1)
    time.sleep(3)
"""

CONFIG = """
global: {{scrape_interval: {interval}s}}
scrape_configs:
- job_name: pinfold
  static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


class Prometheus:
    """Debian's, on a loopback port, scraping one sensor."""

    def __init__(self, sensor: Sensor, folder: Path, undo: Undo) -> None:
        self._port = free_port()
        self._opener = build_opener(ProxyHandler({}))
        config = folder / "prometheus.yml"
        config.write_text(CONFIG.format(interval=SCRAPE_SECONDS, port=sensor.port))
        command = [
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        ]
        self.child = Child("prometheus", command, folder / "prometheus.out", undo)
        assert undo.until(self._scraped, READY_SECONDS), self.child.said()

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        with self._opener.open(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def _scraped(self) -> bool:
        try:
            return bool(self.get("query", query='up{job="pinfold"} == 1')["result"])
        except (URLError, ConnectionError):
            return False

    def over(self, query: str, start: float, end: float) -> list[list[float]]:
        """The values of each series, one a scrape."""
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        data = self.get("query_range", query=query, start=str(start), end=str(end), step=str(SCRAPE_SECONDS))
        return [[float(value) for _, value in series["values"]] for series in data["result"]]


class Observed:
    """A sensor and a Prometheus, after a few rounds of ordinary work and incident."""

    def __init__(self, undo: Undo, folder: Path, instance: str) -> None:
        self._undo, self._folder = undo, folder
        network = Network(instance, undo)
        self._inside = network.enter(network.inside)
        peers = Peers(network, folder, undo)
        programs = folder / "programs"
        programs.mkdir(mode=0o755)
        for stub in ("agent.py", "work.py"):
            shutil.copy(STUBS / stub, programs)
        # A tunnel that is let be until somebody comes through it would be let be for good.
        incident = [act for act in acts(programs, peers, nodes(instance, undo)) if act.ending != "relayed"]
        plans = {agent: folder / f"plan-{agent}.json" for agent in (AGENT, PATIENT)}
        for agent, plan in plans.items():
            plan.write_text(json.dumps({act.name: act.command for act in incident if act.agent == agent}))
        self._sensor = Sensor(instance, folder, undo)
        self.prometheus = Prometheus(self._sensor, folder, undo)
        self.start = time.time()
        for turn in range(ROUNDS):
            undo.wait(PAUSE_SECONDS)
            work = folder / f"work-{turn}"
            work.mkdir()
            results = folder / f"results-{turn}"
            self._run(WORK, [str(programs / "work.py"), str(work), "8080"])
            self._run(WORK, ["/usr/bin/python3", "-I", "-S", "-c", HOLD])
            for agent, plan in plans.items():
                self._run(agent, [str(programs / "agent.py"), str(plan), str(results)])
            self._quarantine(f"held-{turn}")
        undo.wait(PAUSE_SECONDS)
        self.end = time.time()

    def _quarantine(self, name: str) -> None:
        """Held for longer than a scrape, then ended."""
        child = Child(name, self._sensor.sandbox(name, ["/bin/sleep", "60"]), self._folder / "runs.out", self._undo)
        client = Client.of(load(str(self._sensor.config)))
        assert self._undo.until(lambda: any(one["name"] == name for one in client.sandboxes()), END_SECONDS)
        made = client.add_quarantine(name, "a test")["id"]
        assert self._undo.until(lambda: client.quarantine(made)["state"] == "held", END_SECONDS)
        self._undo.wait(2 * SCRAPE_SECONDS)
        client.kill_quarantine(made, "it is over")
        assert self._undo.until(lambda: child.status is not None, END_SECONDS), child.said()

    def _run(self, name: str, command: list[str]) -> None:
        child = Child(
            name, [*self._inside, *self._sensor.sandbox(name, command)], self._folder / "runs.out", self._undo
        )
        assert self._undo.until(lambda: child.status is not None, END_SECONDS), child.said()
        assert child.status == 0, child.said()


@pytest.fixture(scope="module")
def observed() -> Iterator[Observed]:
    folder = Path(tempfile.mkdtemp(prefix=f"pinfold-dashboard-{unique()}-"))
    folder.chmod(0o711)  # the far side's programs run as a user of their own
    instance = f"pinfold-demo-{unique()}"
    undo = Undo()
    with undo:
        undo.add("folder", lambda: remove_tree(folder))
        yield Observed(undo, folder, instance)
    assert undo.failures == []


@pytest.mark.parametrize(("name", "query"), QUERIES)
def test_every_query_has_data_that_changes(observed: Observed, name: str, query: str) -> None:
    series = observed.prometheus.over(query, observed.start, observed.end)
    finite = [value for values in series for value in values if math.isfinite(value)]
    assert finite, f"no data for {query}"
    if not {name, name[:-2]} & set(STEADY):
        assert any(len({str(value) for value in values}) > 1 for values in series), f"{query} stays at {finite[0]}"


def test_what_is_steady_is_there() -> None:
    names = {str(parameters.id) for parameters in QUERIES}
    assert set(STEADY) <= names | {name[:-2] for name in names}
