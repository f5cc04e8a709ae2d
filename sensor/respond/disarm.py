"""The user-space half of `pinfold disarm`: a marker file that every response looks for before acting.

It survives a restart, and works with the daemon dead. The kernel's half is one word in a pinned map,
which stops refusals there.
"""

from __future__ import annotations

import os
from pathlib import Path

from sensor.errors import ActError

MARKER = "disarmed"


class Arming:
    """`state` is the folder paths.state of the configuration."""

    def __init__(self, state: str | Path) -> None:
        self._marker = os.path.join(state, MARKER)

    def disarmed(self) -> bool:
        """One stat, so that it may be asked before each action. What cannot be told counts as disarmed:
        then somebody's wish to stop may be what cannot be read."""
        try:
            os.stat(self._marker)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True
        return True

    def disarm(self) -> None:
        """Idempotent, and durable when it returns.

        :raises ActError: the marker cannot be written.
        """
        try:
            os.makedirs(os.path.dirname(self._marker), mode=0o700, exist_ok=True)
            fd = os.open(self._marker, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            os.close(fd)
        except OSError as error:
            raise ActError(f"{self._marker}: cannot be written: {error.strerror}") from error

    def arm(self) -> None:
        """Idempotent.

        :raises ActError: the marker cannot be removed.
        """
        try:
            os.unlink(self._marker)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise ActError(f"{self._marker}: cannot be removed: {error.strerror}") from error
