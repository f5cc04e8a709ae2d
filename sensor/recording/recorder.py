"""Writes down what the core reads, while somebody wants it; at other times nothing of it is on any path.

Records come through `take`, in the pipeline's place. What the stages ask of the host besides (/proc, the hierarchy, the
kernel's table of flows, the clock) is heard by putting a method that also writes over the one that answers; when the
recording ends, these are taken away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from sensor import __version__
from sensor.bpf.ring import Ring
from sensor.config import Config
from sensor.control.caller import ConflictError
from sensor.enrich.enricher import Enricher
from sensor.errors import RecordingError
from sensor.events.activity import AnyActivity, SandboxChange
from sensor.events.layouts import ABI, HEADER_SIZE, Buffer
from sensor.network import Network
from sensor.pipeline import Pipeline
from sensor.recording import entries

SECTIONS = ("sandboxes", "classes", "assign", "limits", "dns", "flows", "detect")  # of the configuration
WORLD = (
    "counters", "counters_at_dial", "holders", "pipe_peers", "pty_masters", "standard_streams", "cpu_usage_ns",
    "gpu_held",
)  # fmt: skip
FLUSH_NS = 10_000_000_000  # what a crash of the core may cost of a recording
FOLDER = "recordings"  # below paths.state
KEPT = 3  # recordings that nobody fetched, beside a new one


class Wanted(Struct, frozen=True):
    seconds: int
    bytes: int
    sandboxes: tuple[int, ...] = ()


class State(Struct, frozen=True):
    """What is told of a recording: the one that goes on, or the last."""

    running: bool
    path: str
    records: int = 0
    bytes: int = 0
    seconds: int = 0
    reason: str = ""  # why it ended


class Recorder:
    def __init__(  # noqa: PLR0917 - what it hears
        self,
        config: Config,
        enricher: Enricher,
        pipeline: Pipeline,
        network: Network,
        generation: Callable[[], int],
        told: Callable[[str], None],
    ) -> None:
        self.on = False
        self.state = State(False, "")
        self._config, self._enricher, self._pipeline, self._network = config, enricher, pipeline, network
        self._generation, self._told = generation, told
        self._writer: Any = None
        self._answers: list[tuple[str, bytes]] = []
        self._over: list[tuple[Any, str]] = []  # what was put over: the object and the method's name
        self._only: frozenset[int] = frozenset()
        self._wanted = Wanted(0, 0)
        self._inside = False  # an entry's answers are being gathered
        self._began_ns = self._flushed_ns = 0
        self._unrecordable = 0

    def begin(self, wanted: Wanted) -> State:
        """:raises PinfoldError: one goes on already, or the file cannot be made."""
        if self.on:
            raise ConflictError(f"a recording goes on already: {self.state.path}")
        from sensor.recording.file import VERSION, Header, Writer  # noqa: PLC0415 - zstd, when wanted
        from sensor.recording.older import record_layouts  # noqa: PLC0415

        self._only, self._wanted, self._unrecordable = frozenset(wanted.sandboxes), wanted, 0
        self._began_ns = self._flushed_ns = time.monotonic_ns()
        settings = {name: msgspec.to_builtins(getattr(self._config, name)) for name in SECTIONS}
        header = Header(
            VERSION, ABI, record_layouts(), self._generation(), time.time_ns(), self._began_ns, wanted.sandboxes,
            self._network.world.cpus(), __version__, settings,
        )  # fmt: skip
        folder = os.path.join(self._config.paths.state, FOLDER)
        path = os.path.join(folder, f"{time.time_ns():x}.pfr")
        try:
            os.makedirs(folder, mode=0o700, exist_ok=True)
            _make_room(folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)
            self._writer = Writer(file, header)
        except OSError as error:
            raise RecordingError(f"{path!a}: cannot be written: {error.strerror}; see paths.state") from error
        self._file = file
        self.state = State(True, path)
        self._write_known()
        self._listen()
        self.on = True
        return self.state

    def end(self, reason: str) -> State:
        """Whatever goes wrong with the file is said; what is in it stays readable."""
        if not self.on:
            return self.state
        self.on = False
        for thing, name in self._over:
            delattr(thing, name)
        self._over.clear()
        self._answers.clear()
        self._pipeline.beside = None
        try:
            over = entries.End(reason, time.time_ns(), self._unrecordable)
            self._writer.add(entries.END, msgspec.msgpack.encode(over))
            self._writer.close()
            self._file.close()
        except OSError as error:
            reason = f"{reason}; {error.strerror}"
            self._told(f"a recording is cut short: {error.strerror}")
        self.state = self._now(running=False, reason=reason)
        self._writer = None
        return self.state

    def take(self, buffer: Buffer, at: int, length: int, generation: int, position: int) -> None:
        """As the pipeline's, which it calls."""
        self._inside = True
        try:
            self._pipeline.take(buffer, at, length, generation, position)
        finally:
            self._inside = False
            self._record(bytes(buffer[at : at + length]), generation, position)

    def drain(self, ring: Ring, most: int, generation: int) -> tuple[int, int]:
        """As the pipeline's, record by record."""
        count = following = 0
        for position, following, at, length in ring.pending(most):  # noqa: B007 - the last one is used
            self.take(ring.data, at, length, generation, position)
            count += 1
        return count, following

    def tick(self, monotonic_ns: int) -> None:
        """As the pipeline's, which it calls."""
        self._inside = True
        try:
            self._pipeline.tick(monotonic_ns)
        finally:
            self._inside = False
            self._answered()
            moment = entries.MOMENT.pack(monotonic_ns, self._pipeline.utc_ns)
            self._add(entries.TICK, moment, monotonic_ns)
        if self.on and monotonic_ns - self._flushed_ns >= FLUSH_NS:
            self._flushed_ns = monotonic_ns
            self._flush()
        if self.on and monotonic_ns - self._began_ns >= self._wanted.seconds * 1_000_000_000:
            self.end("its time is over")

    def found(self) -> None:
        """Sandboxes and processes were found that no record told of. Before what is told of them."""
        if self.on:
            self._write_known()

    def reloaded(self, config: Config) -> None:
        """A replay has one configuration."""
        if any(getattr(config, name) != getattr(self._config, name) for name in SECTIONS):
            self.end("the configuration was changed by a reload")
        self._config = config

    def progress(self) -> State:
        return self._now(running=True) if self.on else self.state

    def _now(self, *, running: bool, reason: str = "") -> State:
        since = (time.monotonic_ns() - self._began_ns) // 1_000_000_000
        writer = self._writer
        return State(running, self.state.path, writer.records, writer.bytes, since, reason)

    # What is written.

    def _write_known(self) -> None:
        for content in entries.known(self._enricher, self._only):
            self._add(entries.KNOWN, content)

    def _record(self, raw: bytes, generation: int, position: int) -> None:
        time_ns, owner = entries.HEADER.unpack_from(raw) if len(raw) >= HEADER_SIZE else (0, 0)
        if (self._only and owner not in self._only) or owner == self._pipeline.aside_id:
            # Of what was asked for another sandbox, only what concerns all is kept.
            self._answers = [each for each in self._answers if each[0] in {"clock", "user"}]
            self._answered()
            return
        if self._answers:
            self._answered()
        if self.on:
            try:
                self._writer.record(generation, position, raw, time_ns)
            except OSError as error:
                self._failed(error)
            self._bound()

    def _tell(self, activity: AnyActivity | SandboxChange) -> None:
        """Told without a record: what was found, and what the guard saw."""
        if not self._only or activity.SandboxId in self._only:
            self._add(entries.TOLD, entries.told(activity))

    def _answered(self) -> None:
        answers, self._answers = self._answers, []
        for _, content in answers:
            self._add(entries.ANSWER, content)

    def _add(self, kind: int, content: bytes, time_ns: int = 0) -> None:
        if self._writer is not None:
            try:
                self._writer.add(kind, content, time_ns)
            except OSError as error:
                self._failed(error)
            self._bound()

    def _flush(self) -> None:
        try:
            self._writer.flush()
        except OSError as error:
            self._failed(error)

    def _bound(self) -> None:
        if self.on and self._writer.bytes + self._writer.waiting // 2 >= self._wanted.bytes:
            self.end("it has as many bytes as it may")

    def _failed(self, error: OSError) -> None:
        self.end(f"its file cannot be written: {error.strerror}")

    # What is heard.

    def _listen(self) -> None:
        enricher = self._enricher
        for name in WORLD:
            self._hear(self._network.world, name, name)
        self._hear(enricher.outside, "image", "image")
        self._hear(enricher.outside, "parent", "parent")
        self._hear(enricher.users, "name", "user")
        self._hear(enricher.timeline.clock, "sample", "clock")
        for name in ("path_of", "name_of", "kept_of", "set_attributes"):
            self._hear(enricher.sandboxes, name, name)
        self._hear(enricher.names, "learn", "learn", only=_of_hosts_file)
        self._pipeline.beside = self._tell

    def _hear(self, thing: Any, name: str, what: str, only: Callable[[tuple[Any, ...]], bool] = lambda _: True) -> None:
        asked = getattr(thing, name)

        def heard(*arguments: Any, **named: Any) -> Any:
            answer = asked(*arguments, **named)
            if only(arguments):
                self._answer(what, (*arguments, *named.values()), answer)
            return answer

        setattr(thing, name, heard)
        self._over.append((thing, name))

    def _answer(self, what: str, arguments: tuple[Any, ...], answer: Any) -> None:
        try:
            said = entries.plain(answer) if what != "set_attributes" else None
            content = msgspec.msgpack.encode((what, entries.plain(arguments), said))
        except (TypeError, ValueError, OverflowError):
            self._unrecordable += 1
            return
        if self._inside:
            self._answers.append((what, content))
        else:
            self._add(entries.ANSWER, content)


def _make_room(folder: str) -> None:
    """Their names are the times of their beginnings."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".pfr"))
    for name in names[:-KEPT]:
        os.unlink(os.path.join(folder, name))


def _of_hosts_file(arguments: tuple[Any, ...]) -> bool:
    """Names of answers are learned again from the records."""
    return len(arguments) > 4 and arguments[4] == "hosts"
