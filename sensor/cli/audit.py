"""What this command does by itself, as lines of audit: with the members that the daemon's have in the log, in a file
of their own, since the log has one writer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click

from sensor.cli.escape import escape

FILE = "audit.jsonl"  # below paths.state


def operator() -> str:
    """Who runs this, as an order names it."""
    return f"uid {os.getuid()}, pid {os.getpid()}, {_executable()}"


@contextmanager
def audited(state: str, operation: str, target: str, reason: str, **fields: Any) -> Iterator[None]:
    """One line with the outcome of what is done within. That it cannot be written is said, and stops nothing:
    whoever cuts a sandbox off with a full disk must succeed."""
    line = {"operation": operation, "target": target, "reason": reason, **fields}
    try:
        yield
    except BaseException as why:
        _append(state, line | {"outcome": "failed", "detail": str(why) or type(why).__name__})
        raise
    _append(state, line | {"outcome": "done", "detail": "by the command line alone"})


def _append(state: str, told: dict[str, Any]) -> None:
    import orjson  # noqa: PLC0415

    line = {
        "kind": "audit",
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "uid": os.getuid(),
        "tgid": os.getpid(),
        "executable": _executable(),
        **told,
    }
    path = os.path.join(state, FILE)
    try:
        os.makedirs(state, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, orjson.dumps({name: _text(value) for name, value in line.items()}) + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as why:
        click.echo(f"pinfold: {escape(path)}: the audit cannot be written: {why.strerror}", err=True)


def _text(value: Any) -> Any:
    """orjson takes no lone surrogates, which a command line of any bytes may hold."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _executable() -> str:
    try:
        return os.readlink("/proc/self/exe")
    except OSError:
        return "?"
