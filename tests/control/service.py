"""A core that serves: a real api process, and a thread that does what the core's loop would do."""

from __future__ import annotations

import http.client
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sensor.config import Config, Paths
from sensor.config import Metrics as MetricsConfig
from sensor.configcontrol import Control
from sensor.control.client import Client
from sensor.control.link import NOTHING, CoreLink, Desk
from sensor.control.listeners import listen
from sensor.metrics import Metrics

PATIENCE_S = 30.0


class Service:
    def __init__(
        self,
        folder: Path,
        sandboxed: Callable[[int, str], bool],
        metrics_at: str,
        desk: Desk = NOTHING,
        answers: dict[str, bytes] | None = None,
    ) -> None:
        config = Config(
            paths=Paths(runtime=str(folder / "run")),
            metrics=MetricsConfig(listen=metrics_at),
            control=Control(group=desk.control.group),
        )
        self.control = Client.of(config)
        self.control_path = folder / "run" / "control.sock"
        self.metrics = Metrics()
        self.asked: Counter[str] = Counter()
        self.said: list[str] = []
        self.listeners = listen(config)
        self.port = next((found.address.port for found in self.listeners if found.kind == "metrics"), 0)
        self.answers: dict[str, Callable[[], bytes]] = {
            "metrics": self.metrics.snapshot,
            "status": lambda: b'{"state":"watching"}',
            "sandboxes": lambda: b"[]",
        }
        self.answers |= {name: lambda answer=answer: answer for name, answer in (answers or {}).items()}  # type: ignore[misc]
        self.link = CoreLink.spawn(
            self.listeners,
            {name: self._provider(name) for name in (*self.answers, "broken")},
            sandboxed=sandboxed,
            metrics=self.metrics,
            say=self.said.append,
            desk=desk,
        )
        self.pumping = threading.Event()
        self.pumping.set()
        self._over = False
        self._thread = threading.Thread(target=self._loop)
        self._thread.start()

    def _provider(self, name: str) -> Callable[[], bytes]:
        def provide() -> bytes:
            self.asked[name] += 1
            return self.answers[name]()

        return provide

    def _loop(self) -> None:
        while not self._over:
            self.pumping.wait()
            if select.select([self.link], [], [], 0.05)[0]:
                self.link.on_readable()
            self.link.tick()

    def close(self) -> None:
        self._over = True
        self.pumping.set()
        self._thread.join()
        self.link.close()

    def get(self, path: str = "/metrics", accept: str = "") -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            connection.request("GET", path, headers={"Accept": accept} if accept else {})
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def api_count(self, name: str, *labels: str) -> float:
        """Of the api's own counters, from the page."""
        wanted = f"{name}{{" if labels else name
        for line in self.get()[2].decode().splitlines():
            if line.startswith(wanted) and all(f'"{label}"' in line for label in labels):
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"{name}{labels} is not on the page")


@contextmanager
def serving(
    folder: Path,
    sandboxed: Callable[[int, str], bool] = lambda _tgid, _path: False,
    metrics_at: str = "127.0.0.1:0",
    desk: Desk = NOTHING,
    answers: dict[str, bytes] | None = None,
) -> Iterator[Service]:
    service = Service(folder, sandboxed, metrics_at, desk, answers)
    try:
        yield service
    finally:
        service.close()
