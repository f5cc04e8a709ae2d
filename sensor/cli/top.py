"""`pinfold top`."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import click

from sensor.cli.common import config_option, settings

if TYPE_CHECKING:
    from sensor.cli.screen import Screen
    from sensor.cli.topframe import View
    from sensor.config import Config

_EACH_S = 1.0
_TIMEOUT_S = 3.0
_PAGE = 10


@click.command(short_help="A live full-screen view: sandboxes, rates, talkers, detections, loss.")
@config_option
@click.option("--once", is_flag=True, help="Print one picture to stdout and end; needs no terminal.")
def top(config_path: str | None, once: bool) -> int:
    """Show what the sandboxes do, once a second: rates, top talkers, detections, what was lost. q quits, ? helps.

    While the sensor does not answer, the view says so and goes on trying. Exit status: 0; with --once 5 where the
    sensor does not answer; 128 + n after signal n.
    """
    config = settings(config_path)
    if once:
        return _once(config)
    from sensor.cli.screen import Ended, Screen  # noqa: PLC0415
    from sensor.cli.topframe import View  # noqa: PLC0415

    view = View()
    try:
        with Screen() as screen:
            _watch(screen, view, Poller(config, screen.alarm))
    except Ended as why:
        return 128 + why.number
    return 0


def _once(config: Config) -> int:
    import sys  # noqa: PLC0415

    from sensor.cli.render import terminal_width  # noqa: PLC0415
    from sensor.cli.topframe import View, frame  # noqa: PLC0415

    view = View(told=asked(config), told_at=time.monotonic())
    whole = sys.stdout.isatty() and "LINES" not in os.environ
    height = os.get_terminal_size(1).lines if whole else int(os.environ.get("LINES") or 24)
    for row in frame(view, terminal_width() or 80, max(2, min(height, 500)))[:-1]:
        click.echo(row.text.rstrip())
    return 0


def asked(config: Config) -> dict[str, Any]:
    """:raises PinfoldError: in one line, why there is no answer."""
    from sensor.cli.toptold import told  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    return told(Client.of(config, _TIMEOUT_S))


class Poller:
    """Asks in a thread of its own, so that keys are obeyed while the sensor is silent. `alarm`: a pipe, written to
    when there is news. It ends with the process."""

    def __init__(self, config: Config, alarm: int) -> None:
        self._config = config
        self._alarm = alarm
        self._lock = threading.Lock()
        self._news: tuple[dict[str, Any] | None, str] | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def news(self) -> tuple[dict[str, Any] | None, str] | None:
        """The latest answer, or why there is none; None where nothing is new."""
        with self._lock:
            found, self._news = self._news, None
        return found

    def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                news: tuple[dict[str, Any] | None, str] = (asked(self._config), "")
            except Exception as why:  # the view outlives whatever is wrong with an answer
                news = (None, _short(str(why)) or type(why).__name__)
            with self._lock:
                self._news = news
            try:
                os.write(self._alarm, b"\0")
            except BlockingIOError:
                pass
            except OSError:
                return  # the view has ended
            time.sleep(max(0.0, _EACH_S - (time.monotonic() - began)))


def _short(why: str) -> str:
    """Without the socket's path, which would leave no room for the rest."""
    return why.partition(": ")[2] if why.startswith("/") else why


def _watch(screen: Screen, view: View, poller: Poller) -> None:
    from sensor.cli.topframe import frame  # noqa: PLC0415

    while True:
        columns, rows = screen.size()
        screen.paint(frame(view, columns, rows))
        for key in screen.wait(_EACH_S):
            if key == "q":
                return
            _pressed(screen, view, key, rows)
        news = poller.news()
        if news is not None and not view.paused:
            told, view.error = news
            if told is not None:
                view.told, view.told_at = told, time.monotonic()


def _pressed(screen: Screen, view: View, key: str, rows: int) -> None:
    from sensor.cli.topframe import SORTS, scrolled  # noqa: PLC0415

    page = max(1, rows // 2)
    steps = {"up": -1, "down": 1, "page up": -page, "page down": page, "home": -(1 << 30), "end": 1 << 30}
    if key in steps:
        scrolled(view, steps[key])
    elif key in ("s", "S"):
        view.sort = (view.sort + (1 if key == "s" else -1)) % len(SORTS)
    elif key == "p":
        view.paused = not view.paused
    elif key == "?":
        view.help = not view.help
    elif key == "suspend":
        screen.suspend()
    elif key == "redraw":
        screen.redraw()
