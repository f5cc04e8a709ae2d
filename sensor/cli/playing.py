"""A recording or a log run again, by a process of its own: what that needs, this command must not carry."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from tempfile import TemporaryFile
from threading import Thread
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
        inherited: tuple[int, ...] = ()
        if shown and sys.stderr.isatty():
            reader, writer = os.pipe()
            stack.callback(os.close, writer)
            inherited = (writer,)
            command += ["--progress", str(writer)]
            size = os.stat(file).st_size
            bar = stack.enter_context(_bar(file, size))
            Thread(target=_follow, args=(os.fdopen(reader, "rb"), bar), daemon=True).start()
        said = stack.enter_context(TemporaryFile())
        command += ["--rules", *map(os.path.abspath, rules)]
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, pass_fds=inherited
        )
        stack.callback(_end, child)
        assert child.stdout is not None
        last: Row = {}
        for line in child.stdout:
            last = parsed(line)
            yield last
        status = child.wait()
        if status or last.get("kind") != "summary":
            raise RecordingError(_why(said, status))


def _bar(file: str, size: int) -> Any:
    return click.progressbar(length=size, label=escape(os.path.basename(file)), file=sys.stderr)


def _follow(reader: IO[bytes], bar: Any) -> None:
    behind = 0
    with reader:
        for line in reader:
            at = int(line.split()[0])
            bar.update(at - behind)
            behind = at


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
