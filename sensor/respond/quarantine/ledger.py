"""The ledger: one JSON file a quarantine, from before the first thing that outlives us until it is over.

A file is written under another name, synced, renamed, and its folder synced: whatever the crash, what is there is
one whole version. An fsync takes as long as the disk likes, so a thread does it. Whoever must not go on before asks
`written`: then it outlives this process, since a start takes a whole file of the other name for the newer version, and
what ends the page cache ends cgroups and pins with it. One process acts on a ledger at a time: it holds the lock
`lock` exclusively as long as it lives, be it the daemon or, with that dead, a command; the kernel takes the lock back
from whoever dies. Readers need no lock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import SimpleQueue

import msgspec

from sensor.errors import HostError, UsageError
from sensor.respond.quarantine.record import Record

FOLDER = "quarantine"
MOST_BYTES = 4 << 20  # of one file
MOST_FILES = 200_000
_ID = re.compile(r"[a-z0-9-]{1,64}")
_FILE = re.compile(r"([a-z0-9-]{1,64})\.json")
_ASIDE = re.compile(r"[a-z0-9-]{1,64}\.json\.corrupt-[0-9]+")
_WRONG = (ValueError, msgspec.ValidationError, RecursionError)
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Ledger:
    """:param state: the folder paths.state of the configuration."""

    def __init__(self, state: str) -> None:
        self.path = os.path.join(state, FOLDER)
        self.damaged: list[str] = []  # names of files that cannot be believed; they stay until somebody removes them
        self._folder = -1
        self._lock = -1
        self._asked: dict[str, int] = {}  # by quarantine, the last version that was to be written
        self._written: dict[str, int] = {}  # and that outlives us; set by the thread
        self._done: dict[str, int] = {}  # and that is on the disk
        self._failed: dict[str, tuple[int, str]] = {}  # or could not be
        self._queue: SimpleQueue[tuple[str, int, bytes] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def open(self, *, acting: bool) -> bool:
        """False: another process acts on it now.

        :raises HostError: the folder cannot be trusted or made.
        """
        if self._folder < 0:
            self._folder = self._open_folder(make=acting)
        if not acting or self._lock >= 0:
            return True
        try:
            lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=self._folder)
        except OSError as error:
            raise HostError(f"{self.path}/lock: cannot be opened ({error.strerror}): what is it?") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                return False
            raise
        self._lock = lock
        return True

    def _open_folder(self, *, make: bool) -> int:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(self.path, 0o700)
            folder = os.open(self.path, _FOLDER_FLAGS)
        except FileNotFoundError:
            if make:
                raise HostError(f"{self.path}: cannot be made: its parent is not there") from None
            return -1
        except OSError as error:
            what = "it is a symbolic link or no folder" if error.errno in {errno.ELOOP, errno.ENOTDIR} else None
            raise HostError(f"{self.path}: refused: {what or error.strerror}; look who put it there") from error
        if (wrong := _distrust(os.fstat(folder))) is not None:
            os.close(folder)
            raise HostError(f"{self.path}: refused: it {wrong}; look who changed it, then chown root and chmod 0700")
        return folder

    def load(self) -> list[Record]:
        """What is written, oldest first. What cannot be believed is put aside by whoever holds the lock, and named in
        `damaged`: for all that is known it is of a quarantine that is in force."""
        self.damaged = []
        if self._folder < 0:
            return []
        records: list[Record] = []
        if self._lock >= 0:
            self._finish_writes()
        for name in sorted(os.listdir(self._folder)[:MOST_FILES]):
            if _ASIDE.fullmatch(name):
                self.damaged.append(name)
            elif matched := _FILE.fullmatch(name):
                try:
                    records.append(self._read(name, matched[1]))
                except FileNotFoundError:
                    continue
                except (OSError, *_WRONG):
                    self.damaged.append(self._put_aside(name) if self._lock >= 0 else name)
        self.damaged.sort()
        return sorted(records, key=lambda record: record.created_ns)

    def _finish_writes(self) -> None:
        """Of a process that died: a file of the other name that is whole was not renamed any more."""
        for name in os.listdir(self._folder)[:MOST_FILES]:
            if not name.endswith(".tmp"):
                continue
            quarantine_id = name.removesuffix(".tmp")
            try:
                self._read(name, quarantine_id)
                os.rename(name, f"{quarantine_id}.json", src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except (OSError, *_WRONG):
                os.unlink(name, dir_fd=self._folder)

    def _read(self, name: str, quarantine_id: str) -> Record:
        """:raises ValueError: it is none of ours, or not whole."""
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or _distrust(found) is not None or found.st_size > MOST_BYTES:
                raise ValueError("not a file that we wrote")
            data = b"".join(iter(lambda: os.read(file, 1 << 20), b""))
        finally:
            os.close(file)
        # The standard library's, since paths of cgroups are bytes: it keeps lone surrogates, msgspec's does not.
        record = msgspec.convert(json.loads(data), Record)
        if record.id != quarantine_id or record.cgroup_id != record.order.sandbox_id:
            raise ValueError("of another quarantine")
        return record

    def _put_aside(self, name: str) -> str:
        for number in range(1, 1000):
            aside = f"{name}.corrupt-{number}"
            with suppress(FileExistsError):
                os.link(name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder, follow_symlinks=False)
                os.unlink(name, dir_fd=self._folder)
                os.fsync(self._folder)
                return aside
        return name

    # Writing.

    def save(self, record: Record) -> None:
        """Returns at once."""
        version = self._asked.get(record.id, 0) + 1
        self._asked[record.id] = version
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="ledger", daemon=True)
            self._thread.start()
        self._queue.put((record.id, version, encoded(record)))

    def written(self, quarantine_id: str) -> bool:
        """Whether the last version outlives this process, or was refused by the disk: then waiting gains nothing."""
        asked = self._asked.get(quarantine_id, 0)
        return self._written.get(quarantine_id, 0) >= asked or self.saved(quarantine_id)

    def saved(self, quarantine_id: str) -> bool:
        """Whether it is on the disk, or was refused by it."""
        asked = self._asked.get(quarantine_id, 0)
        return self._done.get(quarantine_id, 0) >= asked or self._failed.get(quarantine_id, (0, ""))[0] >= asked

    @property
    def settled(self) -> bool:
        return all(self.saved(quarantine_id) for quarantine_id in self._asked)

    def failures(self) -> Iterator[tuple[str, str]]:
        """(quarantine, why) of each whose last version is not on the disk, to be saved again."""
        for quarantine_id, (version, why) in list(self._failed.items()):
            if version >= self._asked.get(quarantine_id, 0):
                yield quarantine_id, why

    def remove(self, quarantine_id: str) -> None:
        """Of a quarantine that is over."""
        if not _ID.fullmatch(quarantine_id):
            raise UsageError(f"{quarantine_id!a}: not the id of a quarantine")
        with suppress(OSError):
            os.unlink(f"{quarantine_id}.json", dir_fd=self._folder)
        for known in (self._asked, self._written, self._done, self._failed):
            known.pop(quarantine_id, None)

    def close(self) -> None:
        """Waits for what is being written, and lets go of the lock."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
        for fd in (self._lock, self._folder):
            if fd >= 0:
                os.close(fd)
        self._lock = self._folder = -1

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            quarantine_id, version, data = item
            try:
                self._write(quarantine_id, version, data)
            except OSError as error:
                self._failed[quarantine_id] = (version, error.strerror or str(error))
            else:
                self._failed.pop(quarantine_id, None)
                self._done[quarantine_id] = version

    def _write(self, quarantine_id: str, version: int, data: bytes) -> None:
        name, temporary = f"{quarantine_id}.json", f"{quarantine_id}.tmp"
        with suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(temporary, flags, 0o600, dir_fd=self._folder)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            self._written[quarantine_id] = version
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        os.fsync(self._folder)


def encoded(record: Record) -> bytes:
    return json.dumps(msgspec.to_builtins(record), ensure_ascii=True).encode("ascii")


def _distrust(found: os.stat_result) -> str | None:
    if found.st_uid != os.geteuid():
        return f"belongs to uid {found.st_uid}"
    if found.st_mode & 0o022:
        return f"can be written by others (mode {stat.S_IMODE(found.st_mode):04o})"
    return None
