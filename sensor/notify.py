"""sd_notify(3): telling systemd, or whoever gave a socket, how we are."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Silent where NOTIFY_SOCKET is not set. A supervisor that does not listen stops nothing."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        watchdog = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Half the interval, as sd_watchdog_enabled(3) advises.
        self.interval_s = int(watchdog) / 2e6 if watchdog.isdigit() and mine else 0.0
        self._fed = 0.0
        self.failures = 0

    def send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.setblocking(False)
                out.sendto("\n".join(lines).encode(), address)
        except OSError:
            self.failures += 1

    def feed(self) -> None:
        """Called from the event loop, so that a loop that hangs starves the watchdog."""
        now = time.monotonic()
        if self.interval_s and now - self._fed >= self.interval_s:
            self._fed = now
            self.send("WATCHDOG=1")
