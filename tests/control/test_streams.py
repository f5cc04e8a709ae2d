"""The log as streams: what is shown, what is dropped, and that nobody waits for who does not read."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.config import Config, Log, Paths
from sensor.control import streams
from sensor.control.link import Desk
from sensor.control.logs import following
from sensor.control.streams import Reader, Wanted
from sensor.control.tail import Tail
from sensor.errors import ClientError, NotFoundError, UsageError
from sensor.export.log import EventLog
from tests.control.fake_core import FakeCore
from tests.control.service import PATIENCE_S, Service, serving
from tests.export import samples


class Writer:
    def __init__(self, folder: Path, max_bytes: int = 1 << 26) -> None:
        config = Config(paths=Paths(log=str(folder / "log")), log=Log(max_bytes=max_bytes, keep=4))
        self.log = EventLog(config, lambda *_: None)
        self.log.recover()

    def exec(self, line: str, sandbox_id: int = 11) -> None:
        self.log.add_activity(samples.process_creation(CommandLine=line, SandboxId=sandbox_id))
        self.log.flush()

    def detect(self, rule_id: str, level: str, sandbox_id: int = 11) -> None:
        activity = samples.process_creation(SandboxId=sandbox_id)
        self.log.add_detection(samples.detection(activity, id=f"1f-a0/{rule_id}", rule_id=rule_id, level=level))
        self.log.flush()


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    made = Writer(tmp_path)
    yield made
    made.log.close()


@pytest.fixture
def service(tmp_path: Path, writer: Writer) -> Iterator[Service]:
    core = FakeCore()
    with serving(tmp_path, desk=Desk(call=core.call, log=writer.log.path)) as made:
        yield made


class Following:
    """A stream that is read in a thread, until told otherwise."""

    def __init__(self, records: Iterator[Any]) -> None:
        self.seen: list[Any] = []
        self.error: Exception | None = None
        self._records = records
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for record in self._records:
                self.seen.append(record)
        except Exception as error:
            self.error = error

    def wait(self, enough: Callable[[list[Any]], bool], again: Callable[[], None] = lambda: None) -> list[Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not enough(self.seen):
            assert time.monotonic() < deadline, self.seen
            assert self.error is None
            again()
            time.sleep(0.02)
        return self.seen


def joined(service: Service, writer: Writer, records: Iterator[Any]) -> Following:
    """Once a line came: what is written after that is seen."""
    following = Following(records)
    following.wait(bool, lambda: writer.exec("marker"))
    return following


def lines(seen: list[Any]) -> list[str]:
    return [record["CommandLine"] for record in seen if record.get("CommandLine") not in {None, "marker"}]


def test_what_is_written_is_streamed_in_order(service: Service, writer: Writer) -> None:
    writer.exec("before")
    stream = joined(service, writer, service.control.events())
    for number in range(100):
        writer.exec(f"line-{number}")
    stream.wait(lambda seen: "line-99" in lines(seen))
    assert lines(stream.seen) == [f"line-{number}" for number in range(100)]
    assert stream.seen[-1]["kind"] == "event"


def test_rotations_are_followed_and_lose_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, max_bytes=4096)
    with serving(tmp_path, desk=Desk(call=FakeCore().call, log=writer.log.path)) as service:
        stream = joined(service, writer, service.control.events())
        for number in range(40):
            writer.exec(f"line-{number}")
            stream.wait(lambda seen, number=number: f"line-{number}" in lines(seen))  # type: ignore[misc]
        assert lines(stream.seen) == [f"line-{number}" for number in range(40)]
        assert len(list((tmp_path / "log").iterdir())) > 3
    writer.log.close()


def test_only_what_is_wanted_is_shown(service: Service, writer: Writer) -> None:
    everything = joined(service, writer, service.control.events())
    wanted = {
        "detections": service.control.detections_stream(),
        "high": service.control.detections_stream(level="high"),
        "rule": service.control.events(rule="two"),
        "sandbox": service.control.events(sandbox="agent-1"),
        "category": service.control.events(category="process_creation", sandbox="agent-1"),
    }
    readers = {name: Following(records) for name, records in wanted.items()}
    deadline = time.monotonic() + PATIENCE_S
    while not all(reader.seen for reader in readers.values()):
        assert time.monotonic() < deadline
        writer.exec("marker")
        writer.detect("two", "critical")
        time.sleep(0.05)
    writer.detect("one", "low")
    writer.detect("one", "high", sandbox_id=12)
    writer.exec("elsewhere", sandbox_id=12)
    writer.log.add_notice("last")
    writer.exec("last")
    everything.wait(lambda seen: "last" in lines(seen))
    readers["sandbox"].wait(lambda seen: "last" in lines(seen))
    readers["high"].wait(lambda seen: any(record["rule"]["id"] == "one" for record in seen))
    assert {record["kind"] for record in everything.seen} >= {"event", "detection", "notice"}
    assert {record["kind"] for record in readers["detections"].seen} == {"detection"}
    assert {record["rule"]["level"] for record in readers["high"].seen} == {"critical", "high"}
    assert {record["rule"]["id"] for record in readers["rule"].seen} == {"two"}
    assert {record["SandboxId"] for record in readers["sandbox"].seen} == {11}
    assert {record.get("category") for record in readers["category"].seen} == {"process_creation"}


def test_a_reader_that_does_not_read_loses_lines_and_is_told_how_many(service: Service, writer: Writer) -> None:
    quick = joined(service, writer, service.control.events())
    with socket.socket(socket.AF_UNIX) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(str(service.control_path))
        slow.sendall(b"GET /v1/events/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        slow.settimeout(PATIENCE_S)
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        long = "x" * 4000
        for number in range(2000):
            writer.log.add_activity(samples.process_creation(CommandLine=f"{number} {long}", argv=b"", SandboxId=11))
            if number % 50 == 0:
                writer.log.flush()
                quick.wait(
                    lambda seen, number=number: any(  # type: ignore[misc]
                        record.get("CommandLine", "").startswith(f"{number - 50 if number else 0} ") for record in seen
                    )
                )
        writer.exec("last")
        quick.wait(lambda seen: "last" in [line[:4] for line in lines(seen)])
        assert len(lines(quick.seen)) == 2001, "who reads misses nothing"
        text, deadline = b"", time.monotonic() + PATIENCE_S
        while b'"kind":"dropped"' not in text or b'"last"' not in text:
            assert time.monotonic() < deadline
            text += slow.recv(65536)
            if b'"kind":"dropped"' in text and b'"last"' not in text:
                writer.exec("last")
    dropped = int(text.partition(b'{"kind":"dropped","count":')[2].partition(b"}")[0])
    assert 0 < dropped < 2100


def test_streams_are_bounded_and_a_closed_one_makes_room(service: Service, writer: Writer) -> None:
    held = [joined(service, writer, service.control.events()) for _ in range(streams.MOST_OF_UID)]
    with pytest.raises(ClientError, match="429: there are enough streams"):
        next(service.control.events())
    assert service.control.status(), "other requests have places"
    assert all(one.error is None for one in held)


def test_a_stream_that_cannot_be_says_why(service: Service, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no sandbox unknown"):
        next(service.control.events(sandbox="unknown"))
    with pytest.raises(UsageError, match="unknown field"):
        next(service.control.detections_stream(category="x"))
    with pytest.raises(UsageError, match="Invalid enum"):
        next(service.control.events(level="loud"))


def test_without_a_log_a_stream_fails_and_the_api_lives(tmp_path: Path) -> None:
    with serving(tmp_path, desk=Desk(call=FakeCore().call, log=str(tmp_path / "log" / "absent"))) as service:
        quiet = Following(service.control.events())
        deadline = time.monotonic() + PATIENCE_S
        while quiet.error is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert isinstance(quiet.error, ClientError)
        assert service.control.status()


def test_a_queue_says_what_it_dropped_where_it_was_dropped() -> None:
    """Without an event loop's help: the reader is asked directly."""

    async def scene() -> list[Any]:
        reader = Reader(Wanted(), 0)
        taken = []
        for number in range(streams.QUEUE_LINES + 7):
            reader.offer(b'{"n":%d}\n' % number)
        taken += [orjson.loads(line) for line in (await reader.take()).splitlines()]
        reader.offer(b'{"n":-1}\n')
        taken += [orjson.loads(line) for line in (await reader.take()).splitlines()]
        reader.end()
        assert await reader.take() == b""
        return taken

    taken = asyncio.run(scene())
    assert taken[streams.QUEUE_LINES - 1 :] == [
        {"n": streams.QUEUE_LINES - 1},
        {"kind": "dropped", "count": 7},
        {"n": -1},
    ]


def test_the_next_file_is_the_one_after(tmp_path: Path) -> None:
    path = tmp_path / "l"
    numbered = [path, *(tmp_path / f"l.{number}" for number in (1, 2, 3))]
    for each in numbered:
        each.write_text(f"{each.name}\n")

    def after(device: int, inode: int) -> str | None:
        fd = following(str(path), device, inode)
        if fd is None:
            return None
        tail = Tail(fd, from_end=False)
        try:
            return tail.chunk().decode().strip()
        finally:
            tail.close()

    places = [(found.st_dev, found.st_ino) for found in (each.stat() for each in numbered)]
    assert [after(*place) for place in places] == [None, "l", "l.1", "l.2"]
    assert after(0, 0) == "l", "the first question"
    assert after(places[0][0], 1) == "l.3", "one that is gone: the oldest that is left"
    for each in numbered:
        each.unlink()
    assert after(0, 0) is None


def test_a_torn_line_is_not_shown_before_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "l"
    path.write_bytes(b"old\nto")
    with path.open("ab", buffering=0) as file:
        tail = Tail(os.open(path, os.O_RDONLY), from_end=True)
        assert tail.chunk() == b""
        file.write(b"rn\nnext")
        assert tail.chunk() == b"torn\n"
        assert tail.chunk() == b""
        tail.close()
