"""The event and detection log: JSON lines, root's alone, rotated by size.

The order of lines is a promise. An event's detections and intents are added before the event: its
line is the commit. The daemon flushes before it advances the ring's consumer, and before it acts
on an intent. Then a crash at any point leaves a log from which `recover` can tell what a replay
must leave out. Crashes of the process only: nothing is synced to the disk.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from sensor.config import Config
from sensor.errors import HostError
from sensor.events.activity import AnyActivity, SandboxChange
from sensor.events.detection import Audit, Detection, Response
from sensor.export.lines import activity_line, audit_line, detection_line, notice_line, response_line, sandbox_line
from sensor.export.logfile import IncompleteWrite, LogFile
from sensor.export.recovery import Recovery, read_back

_BATCH_BYTES = 4 * 1024 * 1024  # written early beyond it: bounds memory
_REMEMBERED = 4096  # detections whose responses can still be told by sandbox
_SAY_AGAIN_S = 60.0
_PASSING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM})

Lost = Callable[[str, str, int], None]


def _to_stderr(text: str) -> None:
    try:
        print(f"pinfold: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        return  # nobody reads it; what it says is counted


class EventLog:
    """`lost(stage, reason, lines)` is told of every line that could not be written; stage is `log`,
    reason the errno's name or, where an old file could not be put aside, `rotate` with 0 lines.
    Nothing here raises while the sensor runs: a full disk must not stop detections."""

    def __init__(self, config: Config, lost: Lost, say: Callable[[str], None] = _to_stderr) -> None:
        self.path = os.path.join(config.paths.log, config.log.file)
        self._file = LogFile(self.path, config.log.max_bytes, config.log.keep)
        self._lost = lost
        self._say = say
        self._said: dict[str, float] = {}
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._sandboxes: dict[str, tuple[int, str]] = {}  # of the latest detections, by their ids
        self.written = 0  # bytes, since the start
        self.first: Callable[[], None] = lambda: None  # writes what must be on disk before the next lines are
        self.detected: Callable[[Detection, bytes], None] = lambda _detection, _line: None  # who keeps the latest

    def recover(self) -> Recovery:
        """Opens the log, mends its end and says what the last run left. To be called once, first.
        Raises HostError if the log can never be written; a full disk is no such reason."""
        torn = 0
        try:
            try:
                torn = self._file.open()
            except OSError as why:
                if why.errno not in _PASSING:
                    raise
                self._complain(_name(why), f"the log {self.path!a} cannot be written: {why.strerror}")
            recovery = read_back(self.path, torn)
        except OSError as why:
            raise HostError(f"the log {self.path!a} cannot be used: {why.strerror}; see paths.log") from why
        if torn:
            self.add_notice("the last line of the log was torn, and is removed", torn_bytes=torn)
        if recovery.unreadable:
            self.add_notice("lines of the log cannot be read", lines=recovery.unreadable)
        return recovery

    def add_activity(self, activity: AnyActivity) -> None:
        self._add(activity_line(activity))

    def add_detection(self, detection: Detection) -> None:
        if len(self._sandboxes) >= _REMEMBERED:
            del self._sandboxes[next(iter(self._sandboxes))]
        self._sandboxes[detection.id] = (detection.activity.SandboxId, detection.activity.SandboxName)
        line = detection_line(detection)
        self.detected(detection, line)
        self._add(line)

    def add_response(self, response: Response) -> None:
        self._add(response_line(response, self._sandboxes.get(response.detection_id)))

    def add_sandbox(self, change: SandboxChange) -> None:
        self._add(sandbox_line(change))

    def add_notice(self, text: str, **fields: Any) -> None:
        """Something an operator should find in the log: a loss, a restart, a reload."""
        self._add(notice_line(time.time_ns(), text, fields))

    def add_audit(self, audit: Audit) -> None:
        self._add(audit_line(audit))

    def flush(self) -> None:
        """Writes what was added, with one system call. What cannot be written is lost, and counted."""
        if not self._batch:
            return
        self.first()
        lines = b"".join(self._batch)
        self._batch.clear()
        self._batch_bytes = 0
        try:
            if self._file.rotation_due(len(lines)):
                self._file.rotate()
        except OSError as why:
            self._lost("log", "rotate", 0)
            self._complain("rotate", f"the log {self.path!a} cannot be rotated: {why.strerror}")
        try:
            self._file.append(lines)
            self.written += len(lines)
        except IncompleteWrite as incomplete:
            self._not_written(lines.count(b"\n", incomplete.kept), incomplete.__cause__)

    def close(self) -> None:
        self.flush()
        self._file.close()

    def _add(self, line: bytes) -> None:
        self._batch.append(line)
        self._batch_bytes += len(line)
        if self._batch_bytes > _BATCH_BYTES:
            self.flush()

    def _not_written(self, lines: int, why: BaseException | None) -> None:
        reason = _name(why)
        self._lost("log", reason, lines)
        text = why.strerror if isinstance(why, OSError) else why
        self._complain(reason, f"the log {self.path!a} cannot be written, lines are lost: {text}")

    def _complain(self, reason: str, text: str) -> None:
        """Once a minute for each reason: a full disk stays full for hours."""
        now = time.monotonic()
        if now - self._said.get(reason, -_SAY_AGAIN_S) >= _SAY_AGAIN_S:
            self._said[reason] = now
            self._say(text)


def _name(why: BaseException | None) -> str:
    return errno.errorcode.get(why.errno or 0, "EIO") if isinstance(why, OSError) else "EIO"
