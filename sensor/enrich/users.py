"""User names of the host, from its /etc/passwd.

Not through NSS: a sandbox may become any of 2^32 uids, and each would be a question to LDAP while
events wait. Never from the sandbox's own passwd, which says what the sandbox likes.
"""

from __future__ import annotations

import os
import stat

PASSWD_MAX_BYTES = 1024 * 1024
CACHED = 4096


class Users:
    """`name(uid)`; a uid that the host does not know is its number."""

    def __init__(self, database: str = "/etc/passwd") -> None:
        self._database = database
        self._stamp: tuple[int, int] | None = None
        self._host: dict[int, str] = {}
        self.known: dict[int, str] = {}
        self.failures = 0
        self.refresh()

    def name(self, uid: int) -> str:
        name = self.known.get(uid)
        if name is None:
            if len(self.known) >= CACHED:
                self.known.clear()
            name = self.known[uid] = self._host.get(uid) or str(uid)
        return name

    def refresh(self) -> None:
        """Read the file again where it changed."""
        try:
            status = os.stat(self._database)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._stamp or not stat.S_ISREG(status.st_mode):
                return
            with open(self._database, "rb") as file:
                content = file.read(PASSWD_MAX_BYTES)
        except OSError:
            self.failures += 1
            return
        self._stamp = stamp
        self._host = _parse(content)
        self.known.clear()


def _parse(content: bytes) -> dict[int, str]:
    users: dict[int, str] = {}
    for line in content.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isascii() and fields[2].isdigit():
            users.setdefault(int(fields[2]), fields[0])
    return users
