"""The demo as a command: exit status 0 only if everything that it claims was seen and nothing is left behind."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from pathlib import Path

from sensor.demo import show
from sensor.demo.story import Story
from sensor.demo.undo import InterruptedDemoError, Undo, remove_tree

INSTANCE_PREFIX = "pinfold-demo-"


def main() -> int:
    """0; 1 where something expected was not seen, failed, or could not be undone; 128 + n after signal n."""
    if os.geteuid() != 0:
        sys.stderr.write("pinfold demo must run as root: sudo packaging/start --demo\n")
        return 1
    undo = Undo()
    missed: list[str] = []
    status = 0
    with undo:
        try:
            missed = _tell(undo)
        except InterruptedDemoError as interruption:
            sys.stderr.write(f"pinfold demo: {interruption}; cleaning up\n")
            status = 128 + interruption.signal_number
        except Exception as error:
            if not undo.interrupted:  # Ctrl-C reaches the tools that were just running, too
                missed = [f"{type(error).__name__}: {error}"]
            status = 128 + undo.interrupted if undo.interrupted else 1
    for line in [*(f"not seen: {what}" for what in missed), *(f"not undone: {failure}" for failure in undo.failures)]:
        sys.stderr.write(f"pinfold demo: {line}\n")
    if status == 0 and not missed and not undo.failures:
        show.row("passed", "everything above was seen in the sensor's own log, and nothing is left behind")
        return 0
    return status or 1


def _tell(undo: Undo) -> list[str]:
    instance = INSTANCE_PREFIX + secrets.token_hex(4)
    folder = Path(tempfile.gettempdir()) / instance
    undo.add(f"folder {folder}", lambda: remove_tree(folder))
    folder.mkdir(mode=0o711)
    folder.chmod(0o711)  # whatever the umask
    show.row(
        "pinfold", "a reverse tunnel, a miner and a GPU without a grant, for real, on this machine; nothing leaves it"
    )
    return Story(instance, folder, undo).tell()
