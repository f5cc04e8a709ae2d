"""`python -m sensor.recording.replay FILE --rules PATH…`: a recording, or a log, run again without a kernel.

A process of its own, which `pinfold replay` starts. Each detection is a line of the log on stdout; the last line
counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO, NoReturn

import msgspec

from sensor.errors import PinfoldError
from sensor.recording.logfile import is_log, play_log
from sensor.rules.engine import Engine
from sensor.rules.ruleset import load
from sensor.say import say

MARKS = 200  # how often progress is told


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    engine = Engine(load(options.rules, options.cache, keep_going=False))
    with ExitStack() as stack:
        log: BinaryIO | None = None
        if options.log:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            log = stack.enter_context(os.fdopen(os.open(options.log, flags, 0o600), "wb"))
        tell = _teller(options.progress, os.stat(options.file).st_size)
        if is_log(options.file):
            summary = play_log(options.file, engine, log, sys.stdout.buffer.write, tell)
        else:
            summary = _play(options.file, engine, log, tell)
        summary["rule_errors"] = sum(engine.errors.values())
    sys.stdout.buffer.write(msgspec.json.encode({"kind": "summary", **summary}) + b"\n")
    sys.stdout.buffer.flush()
    return 0


def _play(file: str, engine: Engine, log: BinaryIO | None, tell: Callable[[int], None]) -> dict[str, int | bool]:
    # Only now: a log needs neither zstd nor the stages.
    from sensor.recording.file import Reader  # noqa: PLC0415
    from sensor.recording.player import Lines, Player  # noqa: PLC0415

    with Reader(file) as reader:
        lines = Lines(log, sys.stdout.buffer.write)
        player = Player(reader, engine, lines)
        for behind in player.play():
            tell(behind)
        return {
            "records": player.records,
            "events": lines.events,
            "detections": lines.detections,
            "undecoded": sum(player.pipeline.decoder.counters.values()),
            "unanswered": player.answers.missing,
            "whole": reader.whole,
        }


def _teller(descriptor: int, size: int) -> Callable[[int], None]:
    if descriptor < 0:
        return lambda _: None
    marks = _marks(size)
    due = next(marks)

    def tell(behind: int) -> None:
        nonlocal due
        if behind >= due:
            os.write(descriptor, b"%d %d\n" % (behind, size))
            while due <= behind:
                due = next(marks)

    return tell


def _marks(size: int) -> Iterator[int]:
    step = max(1, size // MARKS)
    mark = 0
    while True:
        yield mark
        mark += step


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sensor.recording.replay")
    parser.add_argument("file")
    parser.add_argument("--rules", nargs="*", default=[])
    parser.add_argument("--cache")
    parser.add_argument("--log")
    parser.add_argument("--progress", type=int, default=-1)
    return parser.parse_args(arguments)


def _run() -> NoReturn:
    try:
        sys.exit(main())
    except PinfoldError as error:
        for line in str(error).splitlines():
            say(line)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        os._exit(1)  # nobody reads any more
    except OSError as error:
        say(f"{error.filename or 'the replay'!a}: {error.strerror or error}")
        sys.exit(4 if isinstance(error, PermissionError) else 1)


if __name__ == "__main__":
    _run()
