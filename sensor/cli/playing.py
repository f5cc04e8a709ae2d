"""A recording or a log run again, by a process of its own: what that needs, this command must not carry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from tempfile import TemporaryFile
from threading import Lock, Thread
from typing import IO, Any

import click

from sensor.cli.choose import parsed
from sensor.cli.common import python
from sensor.cli.escape import escape
from sensor.errors import RecordingError

Row = dict[str, Any]
_CHUNK = 65536


def play(
    file: str, rules: Sequence[str], cache: str | None = None, log: str | None = None, shown: bool = False
) -> Iterator[Row]:
    """Each detection, then a row of kind `summary`. `shown`: how far it is, on stderr, where that is a terminal.

    :raises RecordingError: it cannot be read, or a rule is broken; what was wrong is on stderr already.
    """
    start, environment = python()
    command = [*start, "-m", "sensor.recording.replay", os.path.abspath(file)]
    command += ["--cache", cache] if cache else []
    command += ["--log", os.path.abspath(log)] if log else []
    with ExitStack() as stack:
        progress = stack.enter_context(_Progress(file)) if shown and sys.stderr.isatty() else None
        if progress is not None:
            command += ["--progress", str(progress.writer)]
        said = stack.enter_context(TemporaryFile())
        command += ["--rules", *map(os.path.abspath, rules)]
        child = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            pass_fds=() if progress is None else (progress.writer,),
        )
        stack.callback(_end, child)
        if progress is not None:
            progress.follow()
        assert child.stdout is not None
        last: Row = {}
        for line in child.stdout:
            last = parsed(line)
            with progress.gives_way() if progress is not None else nullcontext():
                yield last
        status = child.wait()
        if status or last.get("kind") != "summary":
            raise RecordingError(_why(said, status))


class _Progress:
    """A bar on stderr, of what the process at the other end of a pipe says."""

    def __init__(self, file: str) -> None:
        self._reader, self.writer = os.pipe()
        size, label = os.stat(file).st_size, escape(os.path.basename(file))
        self._bar = click.progressbar(length=size, label=label, file=sys.stderr)
        self._size = size
        self._thread: Thread | None = None
        self._drawing = Lock()

    def __enter__(self) -> _Progress:
        self._bar.__enter__()
        return self

    def follow(self) -> None:
        """After the process was started: only it writes from here on, so that the pipe ends with it."""
        os.close(self.writer)
        self.writer = -1
        self._thread = Thread(target=self._update, daemon=True)
        self._thread.start()

    @contextmanager
    def gives_way(self) -> Iterator[None]:
        """What is printed meanwhile is a line of its own, where both go to one terminal."""
        with self._drawing:
            if sys.stdout.isatty():
                click.echo("\r\x1b[K", nl=False, file=sys.stderr)
            yield

    def __exit__(self, *why: object) -> None:
        if self.writer >= 0:
            os.close(self.writer)
        if self._thread is not None:
            self._thread.join()
        else:
            os.close(self._reader)
        if why[0] is None:
            self._bar.update(self._size - self._bar.pos)
        self._bar.__exit__(None, None, None)

    def _update(self) -> None:
        with os.fdopen(self._reader, "rb") as reader:
            for line in reader:
                with self._drawing:
                    self._bar.update(int(line.split()[0]) - self._bar.pos)


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.kill()
    child.wait()


def _why(said: IO[bytes], status: int) -> str:
    said.seek(0)
    text = said.read(_CHUNK).decode(errors="replace").strip()
    lines = [line.removeprefix("pinfold: ") for line in text.splitlines()]
    if status > 0 and text.startswith("pinfold: "):
        return "\n".join(lines)
    return f"the replay ended with {status}: {lines[-1] if lines else 'it said nothing'}"
