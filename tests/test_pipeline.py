"""The stages together, over a log with real files: what is told, in which order, and what is not told twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sensor.bpf.tables import Tables
from sensor.config import Config, Paths, SandboxPattern, complete
from sensor.enrich.enricher import WATCHED, Enricher
from sensor.events.detection import Detection, Response
from sensor.events.layouts import Cgroup, Type
from sensor.export.log import EventLog
from sensor.metrics import Metrics
from sensor.network import Network
from sensor.pipeline import Pipeline
from sensor.respond.responder import Responder
from sensor.rules import sigma
from sensor.rules.engine import Engine
from tests.enrich import records
from tests.enrich.records import BOX, START
from tests.events.packing import LAYOUTS, bytes_of
from tests.rules.helpers import build, rule_text

GENERATION = 0x51
TOP = Path(__file__).resolve().parents[1]
ID = "11111111-2222-3333-4444-555555555555"
MINER = rule_text("sel:\n  CommandLine|contains: xmrig\ncondition: sel", rule_id=ID)
CONNECT = rule_text(
    "sel:\n  DestinationPort: 3333\ncondition: sel", "network_connection", "11111111-2222-3333-4444-666666666666"
)
Line = dict[str, Any]


class NoFlows:
    """The kernel's tables, in which every flow has lost its place."""

    def flow(self, _: int) -> None:
        return None


class Acting:
    """Stands for the responder: journals an intent, acts, journals the outcome, as the real one does."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asked: list[str] = []
        self.on_disk: list[list[str]] = []  # kinds of the lines in the file at the moment of each act
        self.silent, self.silences, self.answers = False, None, lambda _: not self.silent

    def respond(self, detection: Detection) -> list[Response]:
        self.asked.append(detection.id)
        if self.silent:
            return []
        pid = detection.activity.ProcessId
        told = [Response(detection.id, 1, "kill", "enforce", outcome, "", (pid,), 0) for outcome in ("intent", "done")]
        self.run.pipeline.journal(told[0])
        self.on_disk.append(self.run.kinds())
        self.run.pipeline.journal(told[1])
        return told


class Run:
    """One life of the core, as far as the pipeline goes; the next one begins with the same folder."""

    def __init__(self, folder: Path, engine: Engine | None = None) -> None:
        config = Config(sandboxes=(SandboxPattern("boxes/*"),), paths=Paths(log=str(folder / "log")))
        (folder / "log").mkdir(exist_ok=True)
        self.file = folder / "log" / "events.jsonl"
        self.lost: list[tuple[str, str, int]] = []
        self.log = EventLog(config, lambda *what: self.lost.append(what))
        self.recovery = self.log.recover()
        self.enricher = Enricher(config, str(folder))
        self.metrics = Metrics()
        self.acting = Acting(self)
        self.watched: list[Cgroup] = []
        engine = engine or Engine(build(MINER, CONNECT))
        responder = cast(Responder, self.acting)
        self.network = Network(
            complete(config),
            cast(Tables, NoFlows()),
            self.enricher,
            self.metrics,
            lambda _: None,
            lambda *_: False,
            print,
        )
        self.pipeline = Pipeline(
            self.enricher, engine, self.log, responder, self.metrics, self.recovery, self.watched.append, self.network
        )

    def take(self, position: int, record: Struct | bytes, generation: int = GENERATION) -> None:
        raw = record if isinstance(record, bytes) else bytes_of(record)
        self.pipeline.take(b"\xee" * 24 + raw + b"\xee" * 24, 24, len(raw), generation, position)

    def lines(self) -> list[Line]:
        self.log.flush()
        return [orjson.loads(line) for line in self.file.read_bytes().splitlines()]

    def kinds(self) -> list[str]:
        """Of what is in the file now."""
        found = [orjson.loads(line) for line in self.file.read_bytes().splitlines()]
        names = {"response": "outcome", "event": "category"}
        return [line[names.get(line["kind"], "kind")] for line in found]

    def counted(self, name: str, *labels: str) -> float:
        return self.metrics.value(name, labels)


@pytest.fixture
def begin(tmp_path: Path) -> Callable[[], Run]:
    return lambda: Run(tmp_path)


BORN = records.birth(BOX, b"/boxes/a\0")
MINES = records.exec_(500, START, b"xmrig\0-o\0pool\0", "/tmp/xmrig")
PLAIN = records.exec_(501, START + 1, b"true\0")
CHILD = records.fork(502, START + 2, (500, START))


def connect(port: int = 3333, **more: Any) -> Struct:
    return records.connect(500, bytes((203, 0, 113, 7)), port=port, **more)


def test_detection_intent_outcome_event_in_this_order(begin: Callable[[], Run]) -> None:
    run = begin()
    for position, record in enumerate((BORN, PLAIN, MINES, connect())):
        run.take(position * 8, record)
    run.log.flush()
    response = ["detection", "intent", "done"]
    assert run.kinds() == [
        "sandbox",
        "process_creation",
        *response,
        "process_creation",
        *response,
        "network_connection",
    ]
    *_, detection, intent, done, event = run.lines()
    assert detection["id"] == f"{GENERATION:x}-18/11111111-2222-3333-4444-666666666666"
    assert intent["detection"] == done["detection"] == detection["id"]
    assert event["id"] == f"{GENERATION:x}-18"
    assert (event["SandboxId"], event["DestinationPort"], event["Image"]) == (BOX, 3333, "/tmp/xmrig")


def test_what_is_acted_on_is_on_disk_before(begin: Callable[[], Run]) -> None:
    """A crash after the act then finds whom it was for."""
    run = begin()
    run.take(0, BORN)
    run.take(8, MINES)
    assert run.acting.on_disk == [["sandbox", "detection", "intent"]]


def test_nothing_is_written_for_an_ordinary_event_until_the_batch_is(begin: Callable[[], Run]) -> None:
    run = begin()
    run.take(0, BORN)
    run.take(8, PLAIN)
    assert run.kinds() == []
    assert [line["kind"] for line in run.lines()] == ["sandbox", "event"]


def test_what_only_changes_state_is_not_told_but_known(begin: Callable[[], Run]) -> None:
    run = begin()
    for position, record in enumerate((BORN, MINES, CHILD)):
        run.take(position, record)
    run.take(3, records.connect(502, bytes((203, 0, 113, 7)), exec_id=CHILD.exec_id))
    assert [line["kind"] for line in run.lines()].count("event") == 2
    assert run.lines()[-1]["Image"] == "/tmp/xmrig", "the child's, from its parent by the fork"


def test_a_replay_is_silent_up_to_the_last_event_and_keeps_what_it_teaches(begin: Callable[[], Run]) -> None:
    first = begin()
    told = [BORN, PLAIN, MINES]
    for position, record in enumerate(told):
        first.take(position * 8, record)
    first.log.close()
    before = first.file.read_bytes()

    second = begin()
    assert second.recovery.last_event == (GENERATION, 16)
    for position, record in enumerate(told):
        second.take(position * 8, record)
    second.log.flush()
    assert second.file.read_bytes() == before
    assert second.acting.asked == []
    assert second.counted("pinfold_replayed_events_total") == 3
    assert second.counted("pinfold_events_total", "process_creation") == 0

    second.take(24, connect())
    event = second.lines()[-1]
    assert (event["id"], event["Image"]) == (f"{GENERATION:x}-18", "/tmp/xmrig")
    assert len(second.acting.asked) == 1


def test_another_generation_is_no_replay(begin: Callable[[], Run]) -> None:
    """Positions begin again in a new ring."""
    first = begin()
    first.take(0, BORN)
    first.take(800, PLAIN)
    first.log.close()
    second = begin()
    second.take(8, MINES, generation=GENERATION + 1)
    assert second.lines()[-1]["id"] == f"{GENERATION + 1:x}-8"
    assert second.counted("pinfold_replayed_events_total") == 0


@pytest.mark.parametrize(
    ("left", "told", "asked"),
    [
        (0, ["detection", "intent", "done"], 1),
        (1, ["intent", "done"], 1),  # the detection was logged
        (2, ["intent", "done"], 1),  # the intent too: nobody knows whether it was carried out, so again
        (3, [], 0),  # the outcome too: nothing is done twice
    ],
)
def test_a_crash_within_an_event_tells_the_rest_of_it(
    begin: Callable[[], Run], left: int, told: list[str], asked: int
) -> None:
    """`left`: how many of the event's lines were written; each step of a crash in turn."""
    first = begin()
    first.take(0, BORN)
    first.take(8, PLAIN)
    first.log.flush()
    committed = first.kinds()
    first.take(16, MINES)
    first.log.close()
    lines = first.file.read_bytes().splitlines(keepends=True)
    first.file.write_bytes(b"".join(lines[: len(committed) + left]))

    second = begin()
    assert len(second.recovery.pending_detections) == (left > 0)
    for position, record in enumerate((BORN, PLAIN, MINES)):
        second.take(position * 8, record)
    second.log.flush()
    assert second.kinds()[len(committed) + left :] == [*told, "process_creation"]
    assert len(second.acting.asked) == asked
    names = [line["id"] for line in second.lines() if line["kind"] == "detection"]
    assert len(names) == len(set(names)) == 1


def test_an_intent_whose_event_is_behind_gets_an_outcome(begin: Callable[[], Run]) -> None:
    """The event is committed and will not be replayed, so nobody else would ever say how it ended."""
    first = begin()
    first.take(0, BORN)
    first.take(8, MINES)
    first.log.close()
    lines = [line for line in first.file.read_bytes().splitlines(keepends=True) if b'"outcome":"done"' not in line]
    first.file.write_bytes(b"".join(lines))
    second = begin()
    second.pipeline.close_intents(second.recovery)
    last = second.lines()[-1]
    assert (last["kind"], last["outcome"], last["action"]) == ("response", "failed", "kill")
    assert last["detection"] == f"{GENERATION:x}-8/{ID}"
    second.log.close()
    third = begin()
    third.pipeline.close_intents(third.recovery)
    assert third.lines() == second.lines()


def test_an_intent_whose_event_will_be_replayed_is_left_to_the_replay(begin: Callable[[], Run]) -> None:
    first = begin()
    first.take(0, BORN)
    first.take(8, MINES)
    first.log.close()
    lines = first.file.read_bytes().splitlines(keepends=True)
    first.file.write_bytes(b"".join(lines[:3]))  # the sandbox, the detection, the intent
    second = begin()
    second.pipeline.close_intents(second.recovery)
    assert len(second.lines()) == 3


def test_the_self_tests_records_are_nobodys(begin: Callable[[], Run]) -> None:
    run = begin()
    run.pipeline.aside_id = 4321
    own = [
        records.birth(4321, b"/boxes/test\0"),
        records.exec_(600, START, b"xmrig\0", sandbox=4321),
        records.exit_(600, START, sandbox=4321),
    ]
    run.take(0, BORN)
    for position, record in enumerate(own, 1):
        run.take(position, record)
    run.take(9, PLAIN)
    assert [type(record) for record in run.pipeline.aside] == [type(record) for record in own]
    assert [line.get("SandboxId") for line in run.lines()] == [BOX, BOX]
    assert run.acting.asked == []
    assert run.enricher.processes.get(600) is None


@pytest.mark.parametrize("kind", [Type.CGROUP_BIRTH, Type.CGROUP_DEATH])
def test_parents_of_sandboxes_are_told_to_the_hook_alone(begin: Callable[[], Run], kind: Type) -> None:
    run = begin()
    run.pipeline.aside_id = 4321
    folder = records.birth(77, b"/boxes\0", class_id=WATCHED)
    changed = Cgroup(**{name: getattr(folder, name) for name in folder.__struct_fields__} | {"type": kind})
    run.take(0, changed)
    assert [(record.type, record.cgroup_id, record.path) for record in run.watched] == [(kind, 77, b"/boxes\0")]
    assert run.lines() == []
    run.take(8, BORN)
    assert len(run.watched) == 1


def test_a_reload_changes_the_rules_of_the_next_event(begin: Callable[[], Run]) -> None:
    run = begin()
    run.take(0, BORN)
    run.take(8, MINES)
    run.pipeline.use(Engine(build(CONNECT)))
    run.take(16, MINES)
    run.take(24, connect())
    assert [name.partition("/")[0] for name in run.acting.asked] == [f"{GENERATION:x}-8", f"{GENERATION:x}-18"]


def test_everything_is_counted(begin: Callable[[], Run]) -> None:
    run = begin()
    run.take(0, BORN)
    run.take(8, MINES)
    run.take(16, connect(count=7, flags=1))
    run.take(24, records.device(500, 195, 0, 1))
    run.take(32, b"\xff" * 100)
    run.take(40, b"x")
    assert run.counted("pinfold_events_total", "process_creation") == 1
    assert run.counted("pinfold_events_total", "sandbox_change") == 1
    assert run.counted("pinfold_connects_total", "allowed") == 7, "a repeat stands for its attempts"
    assert run.counted("pinfold_device_attempts_total", "nvidia", "would_refuse") == 1
    assert run.counted("pinfold_detections_total", ID, "high") == 1
    assert run.pipeline.detections == {BOX: 2}
    assert run.pipeline.decoder.counters == {"unknown_type": 1, "short": 1}


@pytest.fixture(scope="module")
def shipped() -> Engine:
    """All rules that pinfold ships: what hostile records meet."""
    return Engine(sigma.build([TOP / "rules"]))


HOSTILE = st.sampled_from(
    [
        records.exec_(500, START, b"\xff\xfe\0\x1b[2J\0\n{\"v\":1}\0", image_path=b"\xff\0\n\0", cwd_path=b""),
        records.exec_(500, START, b"", image_path=b"", filename=b"", cwd_path=b""),
        records.exec_(500, START, b"curl\0" * 800, file_flags=0x1FF, flags=0xFFFF),
        records.fork(501, START, (500, START)),
        records.exit_(500, START, 0xFFFFFFFF),
        connect(family=2),
        connect(family=0xFFFF, protocol=255, verdict=255),
        records.connect_unix(500, b"\0\xff\n" * 30),
        records.device(500, 2**32 - 1, 2**32 - 1, 255, kind=65535, access=65535, verdict=255, prior=255),
        records.birth(9001, b"/boxes/\xff\n\0"),
        records.birth(9002, b"../../etc\0"),
        records.death(BOX, b"/boxes/a\0"),
        records.move(500, START, previous=0, destination=BOX),
        records.move(500, START, previous=BOX, destination=0, cgroup=1, mover=(BOX, 500)),
        records.move(500, START, previous=0, destination=BOX, mover=(BOX, 2**32 - 1)),
        records.access(500),
        records.access(500, 2**32 - 1, 2**32 - 1, target=2**32 - 1, result=-(2**31)),
        records.flow(500, b"\xcb\0\x71\x07"),
        records.flow(500, b"\xff" * 16, family=10, phase=2, flags=0xFF, protocol=255, end=255, verdict=255, denied=255),
        records.flow(500, b"\xcb\0\x71\x07", flags=9, denied=1, phase=1),
        records.payload(500, b"\xcb\0\x71\x07", b"SSH-2.0-OpenSSH_9.2\r\n"),
        records.payload(500, b"\xcb\0\x71\x07", b"\x16\x03\x01\xff\xff\x01" + bytes(300), offset=4, incoming=1),
        records.payload(500, b"\x0a\0\0\x35", b"\xff" * 400, port=53, protocol=17, incoming=1),
        records.listen(500, b"", 0, protocol=255, family=10),
        records.inversion(500), records.system_call(500, 255, 2**32 - 1, (2**64 - 1,) * 4, result=-(2**31), signal=255),
    ]
)  # fmt: skip


@given(data=st.data())
@settings(max_examples=150)
def test_hostile_records_never_raise(
    data: st.DataObject, shipped: Engine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Mutated at will, over all rules; every line of the log stays one line of JSON."""
    run = Run(tmp_path_factory.mktemp("hostile"), shipped)
    run.acting.silent = True
    run.take(0, BORN)
    count = data.draw(st.integers(1, 8))
    for position in range(1, count + 1):
        raw = bytearray(bytes_of(data.draw(HOSTILE)))
        for _ in range(data.draw(st.integers(0, 8))):
            raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] = data.draw(st.integers(0, 255))
        run.take(position * 8, bytes(raw))
    lines = run.lines()
    assert all(line["v"] == 1 for line in lines)
    assert len([line for line in lines if line["kind"] == "event"]) <= count * 8
    assert not shipped.errors, shipped.errors
    assert not shipped.index_errors
    assert run.lost == []
    run.log.close()


def test_every_kind_of_record_is_among_the_hostile_ones() -> None:
    drawn = {record.type for record in HOSTILE.elements}  # type: ignore[attr-defined]
    assert drawn == set(LAYOUTS)
