"""The command `pinfold` as an operator has it: a process of its own, without a terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from tests.cli.terminal import REPOSITORY
from tests.live.running import Running

Row = dict[str, Any]
WAIT_S = 60.0
WHY = ("--reason", "a drill")


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Row]:
        """Of `-o json`: a value a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def row(self) -> Row:
        (found,) = self.rows
        return found


def begin(sensor: Running, *arguments: str, columns: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "sensor.cli", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PINFOLD_CONFIG": str(sensor.file), **({"COLUMNS": str(columns)} if columns else {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def pinfold(sensor: Running, *arguments: str, status: int = 0, columns: int = 0) -> Done:
    """Runs it; another exit status than this is an AssertionError that has what it said."""
    process = begin(sensor, *arguments, columns=columns)
    try:
        out, err = (each.decode() for each in process.communicate(timeout=WAIT_S))
    except BaseException:
        process.kill()
        process.wait()
        raise
    assert "Traceback" not in err, err
    assert process.returncode == status, f"pinfold {' '.join(arguments)}: {process.returncode}\n{out}\n{err}"
    return Done(process.returncode, out, err)


def quarantine(sensor: Running, name: str, *options: str) -> Row:
    """Held when it returns, and every step of it done."""
    record = pinfold(sensor, "quarantine", "add", name, *WHY, "-o", "json", *options).row
    assert record["state"] == "held", record
    return record


def end(sensor: Running, verb: str, which: str) -> Row:
    """`release` or `kill`."""
    return pinfold(sensor, "quarantine", verb, which, *WHY, "--yes", "-o", "json").row


def audits(sensor: Running, operation: str) -> list[Row]:
    """What the daemon wrote of an operation, in its log."""
    return [line for line in sensor.lines() if line.get("kind") == "audit" and line.get("operation") == operation]
