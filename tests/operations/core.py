"""Operations over real registries, a real log, and parts that are played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import orjson
from msgspec import Struct
from msgspec.structs import replace

from sensor.bpf.state import FlowState
from sensor.bpf.tables import Losses
from sensor.config import Config, Paths, SandboxPattern, complete
from sensor.control.caller import Caller
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.errors import NotFoundError
from sensor.events.activity import AnyActivity
from sensor.export.log import EventLog
from sensor.metrics import Metrics
from sensor.operations.operations import Operations
from sensor.operations.parts import Asked, Parts
from sensor.recording.recorder import State, Wanted
from sensor.reports import Reports
from sensor.respond.disarm import Arming
from sensor.respond.kill import Gone
from sensor.respond.killsandbox import Killed
from sensor.respond.nevertouch import Refusal
from sensor.respond.silences import Silence
from tests.export import samples

ROOT = Caller(0, 7, "/usr/bin/pinfold", "change")
READER = Caller(1000, 8, "/usr/bin/curl", "read")
LAUNCHER = Caller(1200, 9, "/usr/bin/trainer", ("boxes/mine-*",))
STRANGER = Caller(1300, 10, "/usr/bin/nc", "")


class Step(Struct):
    name: str = "network"
    state: str = "done"


class Record(Struct):
    id: str
    order: Asked
    state: str = "beginning"
    steps: list[Step] = []
    stopped: tuple[int, ...] = (1, 2, 3)


class Quarantines:
    def __init__(self) -> None:
        self.kept: dict[str, Record] = {}
        self.ended: list[tuple[str, str, str]] = []

    def add(self, order: Asked) -> Record:
        made = Record(f"q{len(self.kept) + 1}", order, steps=[Step()])
        self.kept[made.id] = made
        return made

    def get(self, id: str) -> Record:
        if id not in self.kept:
            raise NotFoundError(f"no quarantine {id}")
        return self.kept[id]

    def release(self, id: str, *, operator: str, reason: str) -> Record:
        self.ended.append(("release", operator, reason))
        self.kept[id].state = "released"
        return self.get(id)

    def kill(self, id: str, *, operator: str, reason: str) -> Record:
        self.ended.append(("kill", operator, reason))
        return self.get(id)

    def records(self) -> Sequence[Record]:
        return list(self.kept.values())

    def of(self, sandbox_id: int) -> Record | None:
        found = [one for one in self.kept.values() if one.order.sandbox_id == sandbox_id and one.state != "released"]
        return found[-1] if found else None


class Acknowledgement(Struct):
    reason: str
    who: str


class Silences:
    def __init__(self) -> None:
        self.kept: dict[str, Silence] = {}
        self.seen: dict[str, Acknowledgement] = {}

    def add(self, wanted: Silence) -> Silence:
        made = replace(wanted, id=f"s{len(self.kept) + 1}")
        self.kept[made.id] = made
        return made

    def remove(self, id: str) -> None:
        if self.kept.pop(id, None) is None:
            raise NotFoundError(f"no silence {id}")

    def listed(self) -> Sequence[Silence]:
        return list(self.kept.values())

    def acknowledge(self, detection_id: str, reason: str, who: str) -> Acknowledgement:
        self.seen[detection_id] = Acknowledgement(reason, who)
        return self.seen[detection_id]

    def acks(self) -> Mapping[str, Any]:
        return msgspec.to_builtins(self.seen)  # type: ignore[no-any-return]


class Attributes:
    def __init__(self) -> None:
        self.kept: dict[int, dict[str, str]] = {}

    def get(self, sandbox_id: int) -> Mapping[str, str]:
        return self.kept.get(sandbox_id, {})

    def put(self, sandbox: Sandbox, attributes: Mapping[str, str]) -> None:
        self.kept[sandbox.id] = dict(attributes)
        sandbox.class_ = attributes.get("class", sandbox.class_)


class Recorder:
    def __init__(self) -> None:
        self.asked: list[Wanted | None] = []

    def begin(self, wanted: Wanted) -> None:
        self.asked.append(wanted)

    def end(self, _reason: str) -> None:
        self.asked.append(None)

    def progress(self) -> State:
        return State(bool(self.asked and self.asked[-1]), "/x.pfr")


class Core:
    """`boxes/NAME` are sandboxes below `folder`, which plays the cgroup2 mount."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        paths = Paths(log=str(folder / "log"), state=str(folder / "state"))
        self.config = complete(Config(sandboxes=(SandboxPattern("boxes/*"),), paths=paths))
        self.log = EventLog(self.config, lambda *_: None)
        self.log.recover()
        self.enricher = Enricher(self.config, str(folder))
        self.metrics = Metrics()
        engine = SimpleNamespace(rules=[], all=[], dear=list)
        self.pipeline = SimpleNamespace(guard=None, tally={}, detections={}, engine=engine, log=self.log, files=None)
        kernel: Any = SimpleNamespace(
            generation=SimpleNamespace(number=1),
            features=(),
            tables=SimpleNamespace(losses=lambda _most: Losses({}, {})),
        )
        pipeline: Any = self.pipeline
        self.reports = Reports(kernel, self.enricher, pipeline, self.metrics, 16)
        self.killed: list[int] = []
        self.kills: Killed | Refusal | Gone | OSError = Killed((101, 102))
        self.refusal: Refusal | None = None
        self.armed: list[bool] = []
        self.reloads: list[None] = []
        self.questions: list[tuple[str, Mapping[str, str]]] = []
        self.flows: dict[int, FlowState] = {}
        self.quarantines = Quarantines()
        self.silences = Silences()
        self.recorder = Recorder()
        self.parts = Parts(
            recorder=self.recorder,  # type: ignore[arg-type]
            config=lambda: self.config,
            mount=str(folder),
            enricher=self.enricher,
            pipeline=pipeline,
            reports=self.reports,
            log=self.log,
            metrics=self.metrics,
            arming=Arming(self.config.paths.state),
            arm=self.armed.append,
            reload=lambda: self.reloads.append(None),
            killer=SimpleNamespace(kill=self._kill),  # type: ignore[arg-type]
            guard=SimpleNamespace(sandbox=lambda _path, _members: self.refusal),  # type: ignore[arg-type]
            quarantines=self.quarantines,
            silences=self.silences,  # type: ignore[arg-type]
            attributes=Attributes(),
            explain=self._explain,
            flow=self.flows.get,
        )
        self.operations = Operations(self.parts)

    def _kill(self, sandbox_id: int) -> Killed | Refusal:
        if isinstance(self.kills, Exception):
            raise self.kills
        # The intent stands in the file before anybody dies.
        assert [line["outcome"] for line in self.audit()][-1:] == ["intent"]
        self.killed.append(sandbox_id)
        return self.kills

    def _explain(self, sandbox: Sandbox, question: Mapping[str, str]) -> Mapping[str, Any]:
        self.questions.append((sandbox.name, question))
        return {"verdict": "refused"}

    def sandbox(self, name: str) -> Sandbox:
        path = self.folder / "boxes" / name
        path.mkdir(parents=True)
        (path / "cgroup.procs").write_text("11\n12\n")
        made = self.enricher.sandboxes.born(path.stat().st_ino, f"boxes/{name}", 1)
        assert made is not None
        made.name = name
        return made

    def detect(self, number: int, sandbox: Sandbox, level: str = "high", rule: str = "r-1", **fields: Any) -> str:
        activity: AnyActivity = samples.process_creation(SandboxId=sandbox.id, SandboxName=sandbox.name, **fields)
        made = samples.detection(activity, id=f"1f-{number:x}/{rule}", rule_id=rule, rule_title="A rule", level=level)
        self.log.add_detection(made)
        self.log.flush()
        return made.id

    def call(self, name: str, caller: Caller = ROOT, /, **asked: Any) -> Any:
        """As the api gets it: over JSON."""
        return orjson.loads(self.operations.answer(name, orjson.dumps(asked), caller))

    def lines(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in Path(self.log.path).read_bytes().splitlines()]

    def audit(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["kind"] == "audit"]

    def again(self) -> Operations:
        """Those of the next run."""
        return Operations(replace(self.parts))
