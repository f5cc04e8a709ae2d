"""Plays the daemon for the live view: `python -m tests.cli.fake_sensor LOG_FOLDER LINES`. Says READY,
logs, and ends with status 5 on SIGTERM or 6 on SIGINT."""

from __future__ import annotations

import os
import signal
import socket
import sys

from sensor.config import Config, Paths
from sensor.export import EventLog
from tests.export import samples


def main(folder: str, lines: int) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    log = EventLog(Config(paths=Paths(log=folder)), lambda *_: None)
    log.recover()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"STATUS=compiling \x1b[31m", os.environ["NOTIFY_SOCKET"])
        notify.sendto(b"READY=1\nSTATUS=ready", os.environ["NOTIFY_SOCKET"])
    log.add_response(samples.response())  # an intent: not shown
    log.add_activity(samples.process_termination(ExitSignal=0))  # not shown
    for position in range(lines):
        log.add_activity(samples.process_creation(position=position, CommandLine=f"\x1b[2Jcommand {position}"))
    log.add_detection(samples.detection())
    log.flush()
    came = signal.sigwait({signal.SIGTERM, signal.SIGINT})
    log.add_notice("stopped")
    log.close()
    return 5 if came == signal.SIGTERM else 6


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
