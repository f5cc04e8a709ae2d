"""The sensor as a child, and what it logs as a live view.

The child is in a process group of its own: Ctrl-C reaches us alone, and is passed on once.
"""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import click

from sensor.cli.choose import parsed
from sensor.cli.escape import escape
from sensor.cli.render import Record, colours_wanted, compact
from sensor.export.reader import Follower

_POLL_MS = 200
_BEHIND_BYTES = 1024 * 1024  # a terminal is slower than a flood: the view skips, the log does not
_PATIENCE_S = 20
_PR_SET_PDEATHSIG = 1
# A terminal that goes away sends SIGHUP, which would mean "reload" to the sensor.
_PASSED_ON = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}


class LiveView:
    """`log_path`: the log that the child will write."""

    def __init__(self, log_path: str) -> None:
        self._follower = Follower(log_path)
        self._log_path = log_path
        self._ready = False

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Until the child ends; returns its exit status, 128 + n after signal n."""
        # In a folder that is ours alone: whoever could write to it could claim that the sensor is ready.
        with (
            tempfile.TemporaryDirectory(prefix="pinfold-") as folder,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify,
        ):
            address = os.path.join(folder, "notify")
            notify.bind(address)
            child = subprocess.Popen(
                command,
                env={**environment, "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                process_group=0,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # no threads here
            )
            try:
                with _passing_on(child):
                    self._watch(child, notify)
            finally:
                if child.poll() is None:  # the view failed: its terminal is gone, say
                    _end(child)
        self._show()
        return child.returncode if child.returncode >= 0 else 128 - child.returncode

    def _watch(self, child: subprocess.Popen[bytes], notify: socket.socket) -> None:
        poll = select.poll()
        poll.register(notify, select.POLLIN)
        while child.poll() is None:
            if poll.poll(_POLL_MS):
                self._notified(notify)
            if self._ready:
                self._show()

    def _notified(self, notify: socket.socket) -> None:
        for line in notify.recv(4096).decode("utf-8", "replace").split("\n"):
            if line == "READY=1" and not self._ready:
                self._ready = True
                click.echo(f"ready: logging to {escape(self._log_path)}; times are UTC; Ctrl-C ends it", err=True)
            elif line.startswith("STATUS=") and not self._ready:
                click.echo(escape(line.removeprefix("STATUS=")), err=True)

    def _show(self) -> None:
        if self._follower.behind() > _BEHIND_BYTES:
            click.echo(f"… {self._follower.skip()} bytes of the log are not shown", err=True)
        terminal = sys.stdout.isatty()
        width, colours = shutil.get_terminal_size().columns, colours_wanted(terminal)
        while lines := self._follower.read():
            shown = [compact(record, width, colours) for line in lines if _telling(record := parsed(line))]
            if shown:
                click.echo("\n".join(shown), color=True)
            if self._follower.behind() > _BEHIND_BYTES:
                break
        sys.stdout.flush()


def _telling(record: Record) -> bool:
    """An exit by itself and an intent that is followed by its outcome say little to somebody who looks on."""
    category = record.get("category")
    if category == "process_termination":
        return bool(record.get("ExitSignal"))
    if category == "network_flow" and record.get("kind") == "event" and record.get("EndReason") != "cut":
        # That it was made, its connect said; that it still lives, its end will.
        return record.get("Phase") == "ended" or record.get("Initiated") is False
    return bool(record) and record.get("outcome") != "intent"


def _end(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _die_with_parent() -> None:
    """So that a view that is killed leaves no sensor behind that nobody sees."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextmanager
def _passing_on(child: subprocess.Popen[bytes]) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        if child.poll() is None:
            child.send_signal(_PASSED_ON[signal.Signals(number)])

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
