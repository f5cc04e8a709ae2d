"""What a core read, written down and run again: the same lines come out, twice the same, and nothing of it raises."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from sensor.control.caller import ConflictError
from sensor.enrich import procfs
from sensor.errors import RecordingError
from sensor.recording import file as recorded
from sensor.recording.file import Reader
from sensor.recording.older import record_layouts
from sensor.recording.player import Lines, Player
from sensor.recording.recorder import Recorder, Wanted
from sensor.rules.engine import Engine
from tests.enrich import records
from tests.enrich.records import BOX, OTHER_BOX, START
from tests.events.packing import bytes_of
from tests.rules.helpers import build
from tests.test_pipeline import CONNECT, GENERATION, HOSTILE, MINER, Run, connect

SSH = b"SSH-2.0-OpenSSH_9.2\r\n"
ADDRESS = bytes((203, 0, 113, 7))


class Recorded:
    """A life of the core, recorded."""

    def __init__(self, folder: Path) -> None:
        self.run = Run(folder, Engine(build(MINER, CONNECT)))
        self.run.acting.silent = True
        config = self.run.network._config
        paths = {"state": str(folder / "state")}
        config = type(config)(**{**_fields(config), "paths": type(config.paths)(**{**_fields(config.paths), **paths})})
        self.said: list[str] = []
        self.recorder = Recorder(
            config, self.run.enricher, self.run.pipeline, self.run.network, lambda: GENERATION, self.said.append
        )

    def begin(self, **wanted: Any) -> None:
        self.recorder.begin(Wanted(**({"seconds": 60, "bytes": 1 << 30} | wanted)))

    def take(self, position: int, record: Struct | bytes) -> None:
        raw = record if isinstance(record, bytes) else bytes_of(record)
        (self.recorder if self.recorder.on else self.run.pipeline).take(
            b"\xee" * 24 + raw + b"\xee" * 24, 24, len(raw), GENERATION, position
        )

    def end(self) -> str:
        self.recorder.end("enough")
        return self.recorder.state.path

    def lines(self) -> list[bytes]:
        return [timeless(line) for line in self.run.lines()]


def _fields(struct: Struct) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def timeless(line: dict[str, Any]) -> bytes:
    """A detection has the time at which the rule matched, which no replay can know."""
    if line["kind"] == "detection":
        line.pop("time")
    return orjson.dumps(line)


@pytest.fixture
def core(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def replayed(path: str, engine: Engine | None = None) -> tuple[list[bytes], Player]:
    log = io.BytesIO()
    with Reader(path) as reader:
        player = Player(reader, engine or Engine(build(MINER, CONNECT)), Lines(log, lambda _: None))
        for _ in player.play():
            pass
    return log.getvalue().splitlines(keepends=True), player


def same(path: str, core: Recorded) -> None:
    lines, _ = replayed(path)
    assert [timeless(orjson.loads(line)) for line in lines] == core.lines()
    assert lines == replayed(path)[0], "twice the same, to the byte"


STORY = (
    records.birth(BOX, b"/boxes/a\0"),
    records.exec_(500, START, b"xmrig\0-o\0pool\0", "/tmp/xmrig", uid=1234),
    connect(),
    records.fork(501, START + 1, (500, START)),
    records.exec_(501, START + 1, b"\xff\xfe\0\x1b[2J\0", image_path=b"\xff\0tmp\0"),
    records.flow(500, ADDRESS, port=22),
    records.payload(500, ADDRESS, SSH, port=22),
    records.exit_(501, START + 1, 3 << 8),
)


def test_a_replay_says_what_was_said_live(core: Recorded) -> None:
    core.begin()
    for position, record in enumerate(STORY):
        core.take(position * 8, record)
        core.recorder.tick(10**10 + position * 10**8)
    same(core.end(), core)
    kinds = [line["kind"] for line in core.run.lines()]
    assert kinds.count("detection") == 2
    assert kinds.count("event") >= 6


def test_what_was_known_before_is_known_in_the_replay(core: Recorded) -> None:
    """A recording may begin in the middle: its sandboxes and processes are those of then."""
    for position, record in enumerate(STORY[:4]):
        core.take(position * 8, record)
    before = len(core.lines())
    core.begin()
    for position, record in enumerate(STORY[4:], 4):
        core.take(position * 8, record)
    lines, player = replayed(core.end())
    assert [timeless(orjson.loads(line)) for line in lines] == core.lines()[before:]
    assert orjson.loads(lines[0])["ParentImage"] == "/tmp/xmrig"
    assert player.enricher.sandboxes.by_id[BOX].path == "boxes/a"


def test_a_crowd_that_was_there_before_fits(core: Recorded) -> None:
    """Each with all the text that it may have: no frame grows beyond what a reader takes."""
    core.take(0, STORY[0])
    for number in range(1500):
        core.take(8, records.exec_(1000 + number, START + number, b"a" * 400 + b"\0"))
    core.begin()
    core.take(16, records.connect(2000, ADDRESS))
    path = core.end()
    with Reader(path) as reader:
        assert max(frame.plain for frame in reader.frames) < 8 << 20
    lines, player = replayed(path)
    assert orjson.loads(lines[-1])["CommandLine"] == "a" * 400
    assert len(player.enricher.processes) == 1500


def test_the_hosts_answers_are_those_of_then(core: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever forked a process into the sandbox, its name, its user: this host has others by now, or none."""
    core.run.enricher.users._host = {1234: "somebody"}
    monkeypatch.setattr(procfs, "read_image", lambda tgid, _start: b"/usr/sbin/runtime-%d" % tgid)
    core.begin()
    core.take(0, STORY[0])
    core.take(8, records.fork(600, START, (77, 5), came=77))
    core.take(16, records.exec_(600, START, b"sh\0", "/bin/sh", parent=(77, 5), uid=1234))
    path = core.end()
    monkeypatch.undo()
    same(path, core)
    event = core.run.lines()[-1]
    assert (event["User"], event["ParentImage"]) == ("somebody", "/usr/sbin/runtime-77")


def test_what_was_told_without_a_record_is_told_again(core: Recorded) -> None:
    core.begin()
    core.take(0, STORY[0])
    found = core.run.enricher.discover(0, 5)
    assert found == []
    core.take(8, STORY[1])
    process = core.run.enricher.processes.current[500]
    traced = core.run.enricher.escapes.traced(process, 1, (0, 99))
    core.run.pipeline.tell_beside(traced)
    same(core.end(), core)
    assert core.run.lines()[-1]["category"] == "sensor_access"


def test_nothing_of_it_stays_on_the_way(core: Recorded) -> None:
    core.begin()
    core.end()
    shadowed = [
        thing
        for thing in (core.run.network.world, core.run.enricher.outside, core.run.enricher.users,
                      core.run.enricher.timeline.clock, core.run.enricher.sandboxes, core.run.enricher.names)
        if any(name in vars(thing) for name in ("image", "name", "sample", "learn", "holders", "name_of", "parent"))
    ]  # fmt: skip
    assert shadowed == []
    assert core.run.pipeline.beside is None


def test_only_the_sandboxes_that_were_asked_for(core: Recorded) -> None:
    core.begin(sandboxes=(BOX,))
    core.take(0, STORY[0])
    core.take(8, records.birth(OTHER_BOX, b"/boxes/b\0"))
    core.take(16, records.exec_(900, START, b"secret\0", sandbox=OTHER_BOX))
    core.take(24, STORY[1])
    path = core.end()
    lines, player = replayed(path)
    assert {orjson.loads(line)["SandboxId"] for line in lines} == {BOX}
    assert player.records == 2
    assert b"secret" not in zstandard.ZstdDecompressor().stream_reader(
        Path(path).read_bytes(), read_across_frames=True
    ).read()  # fmt: skip


@pytest.mark.parametrize("limit", [{"bytes": 65536}, {"seconds": 0}])
def test_it_ends_by_itself(core: Recorded, limit: dict[str, int]) -> None:
    core.begin(**limit)
    for position in range(400):
        noise = bytes(orjson.dumps([position, hash((position, 7)), hash((position, 8))]).ljust(200, b"x"))
        core.take(position * 8, records.exec_(500 + position, START + position, noise * 4 + b"\0"))
    core.recorder.tick(1 << 62)
    assert not core.recorder.on
    assert core.recorder.progress().reason in {"it has as many bytes as it may", "its time is over"}
    lines, player = replayed(core.recorder.state.path)
    assert len([line for line in lines if b'"kind":"event"' in line]) == player.records > 100


def test_one_at_a_time_and_the_file_is_roots(core: Recorded) -> None:
    core.begin()
    with pytest.raises(ConflictError, match="goes on already"):
        core.begin()
    path = Path(core.end())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_nobody_fetched_does_not_fill_the_disk(core: Recorded) -> None:
    paths = []
    for _ in range(6):
        core.begin()
        paths.append(Path(core.end()))
    assert [path.exists() for path in paths] == [False, False, True, True, True, True]


def test_a_full_disk_ends_the_recording_and_nothing_else(core: Recorded) -> None:
    core.begin()
    core.take(0, STORY[0])
    core.recorder._file.close()
    core.recorder._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    core.recorder._writer._file = core.recorder._file
    for position in range(1, 4):
        core.take(position * 8, records.exec_(500, START, bytes(range(1, 250)) * 15 + b"\0"))
    core.recorder._flush()
    assert not core.recorder.on
    assert "No space left" in core.recorder.state.reason
    core.take(40, STORY[1])
    assert core.run.lines()[-1]["CommandLine"] == "xmrig -o pool"


# The file.


def recording(core: Recorded, frames: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(recorded, "FRAME_BYTES", 1)  # each entry is a frame of its own
    core.begin()
    core.take(0, STORY[0])
    for position in range(1, frames):
        core.take(position * 8, records.exec_(500 + position, START + position))
    return Path(core.end())


def test_the_index_says_what_the_frames_hold(core: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(core, 6, monkeypatch)
    with Reader(str(path)) as reader:
        assert reader.whole
        assert sum(frame.records for frame in reader.frames) == 6
        held = [frame for frame in reader.frames if frame.records]
        assert [frame.first_ns for frame in held] == [frame.last_ns for frame in held]
        assert all(frame.first_ns for frame in held)
        assert list(reader._scan()) == reader.frames


def test_it_is_a_zstd_file(core: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(core, 3, monkeypatch)
    with Reader(str(path)) as reader:
        whole = b"".join(reader._unpacked(frame) for frame in reader.frames)
    stream = zstandard.ZstdDecompressor().stream_reader(path.read_bytes(), read_across_frames=True)
    assert stream.read() == whole


def test_cut_anywhere_it_reads_up_to_its_last_whole_frame(core: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(core, 5, monkeypatch)
    content = path.read_bytes()
    with Reader(str(path)) as reader:
        first = reader.frames[0].at - 8 - recorded._FRAME.size
        ends = [frame.at + frame.packed for frame in reader.frames]
    for length in range(first, len(content)):
        path.write_bytes(content[:length])
        with Reader(str(path)) as reader:
            assert not reader.whole
            assert len(reader.frames) == sum(end <= length for end in ends)
            for frame in reader.frames:
                assert list(reader.entries(frame))


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"{}", b"\x50\x2a\x4d\x18\xff\xff\xff\xff", b"\x28\xb5\x2f\xfd" * 9):
        path.write_bytes(content)
        with pytest.raises(RecordingError, match="not a recording of pinfold"):
            Reader(str(path))


@given(data=st.data())
@settings(max_examples=100)
def test_a_damaged_file_is_refused_and_nothing_else(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, remembered: Callable[[], bytes]
) -> None:
    content = bytearray(remembered())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(bytes(content))
    with contextlib.suppress(RecordingError):
        replayed(str(path), ENGINE)


ENGINE = Engine(build(MINER, CONNECT))


@pytest.fixture(scope="module")
def remembered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], bytes]:
    core = Recorded(tmp_path_factory.mktemp("core"))
    core.begin()
    for position, record in enumerate(STORY):
        core.take(position * 8, record)
    content = Path(core.end()).read_bytes()
    return lambda: content


@given(data=st.data())
@settings(max_examples=60)
def test_hostile_records_replay_as_they_came(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    core = Recorded(tmp_path_factory.mktemp("hostile"))
    core.begin()
    core.take(0, STORY[0])
    for position in range(1, data.draw(st.integers(2, 8))):
        raw = bytearray(bytes_of(data.draw(HOSTILE)))
        for _ in range(data.draw(st.integers(0, 8))):
            raw[data.draw(st.integers(0, min(len(raw), 200) - 1))] = data.draw(st.integers(0, 255))
        core.take(position * 8, bytes(raw))
    path = core.end()
    assert replayed(path, ENGINE)[0] == replayed(path, ENGINE)[0]


@given(content=st.binary(max_size=300), kind=st.integers(0, 9))
@settings(max_examples=200)
def test_entries_of_anything_raise_no_other_error(
    content: bytes, kind: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("entries") / "x"
    layouts = record_layouts()
    header = recorded.Header(recorded.VERSION, 1, layouts, 1, 1, 1, (), 1, "0", {"classes": {"a": {"b": content}}})
    with path.open("wb") as file:
        writer = recorded.Writer(file, header)
        writer.add(kind, content)
        writer.close()
    with contextlib.suppress(RecordingError):
        replayed(str(path), ENGINE)
