"""A bounded archive for a bug report: generated names, 0600, a manifest with SHA-256 sums."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from sensor.errors import UsageError

ITEM_BYTES = 4 * 1024 * 1024
ALL_BYTES = 64 * 1024 * 1024
ITEM_SECONDS = 45.0
ALL_SECONDS = 180.0
FOLDER = "pinfold-bug"

Content = bytes
_CUT = b"\n[cut here]\n"


class Missing(Exception):
    """One line: why an item cannot be had."""


class Item(Struct, frozen=True):
    """`name` in the archive, what it is for people, and whence. `tail`: of what is too long, the end is kept."""

    name: str
    what: str
    source: str
    content: Callable[[], Content]
    tail: bool = False


class Archive:
    """For `with`. An archive that is not finished is removed.

    :raises UsageError: the file is there already, or cannot be made.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._file = open(os.open(path, flags, 0o600), "wb")  # noqa: SIM115  # closed below
        except OSError as why:
            raise UsageError(f"{path}: cannot be made: {why.strerror}") from why
        os.fchmod(self._file.fileno(), 0o600)
        self._tar = tarfile.open(fileobj=self._file, mode="w:gz")  # noqa: SIM115
        self._began = time.monotonic()
        self._now = int(time.time())
        self._bytes = 0
        self._manifest: list[dict[str, Any]] = []
        self.missing: list[str] = []

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
                self._tar.close()
        except BaseException:
            os.unlink(self.path)
            raise
        finally:
            self._file.close()
        if kind is not None:
            os.unlink(self.path)

    def take(self, item: Item) -> str:
        """Its content, or why there is none: "" where all is well."""
        entry: dict[str, Any] = {"name": item.name, "what": item.what, "source": item.source}
        left = min(ITEM_SECONDS, ALL_SECONDS - (time.monotonic() - self._began))
        content, why = within(item.content, left)
        if not why and self._bytes >= ALL_BYTES:
            why = f"the archive has {ALL_BYTES >> 20} MiB already"
        if why:
            self.missing.append(f"{item.name}: {why}")
            self._manifest.append({**entry, "missing": why})
            return why
        kept = cut(content, min(ITEM_BYTES, ALL_BYTES - self._bytes), item.tail)
        self._add(item.name, kept)
        sums = {"bytes": len(kept), "sha256": hashlib.sha256(kept).hexdigest()}
        self._manifest.append({**entry, **sums, **({"cut_from_bytes": len(content)} if kept is not content else {})})
        return ""

    def _finish(self) -> None:
        self._add("missing.txt", "".join(f"{line}\n" for line in self.missing).encode("utf-8", "backslashreplace"))
        manifest = {"version": 1, "items": self._manifest}
        self._add("manifest.json", json.dumps(manifest, indent=1).encode())

    def _add(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(f"{FOLDER}/{name}")
        entry.size, entry.mode, entry.mtime = len(content), 0o600, self._now
        self._bytes += len(content)
        self._tar.addfile(entry, io.BytesIO(content))


def within(content: Callable[[], Content], seconds: float) -> tuple[Content, str]:
    """The content, or why there is none. What hangs is left behind, in a thread that ends with the process."""
    done: list[tuple[Content, str]] = []

    def run() -> None:
        try:
            done.append((content(), ""))
        except Missing as why:
            done.append((b"", str(why)))
        except OSError as why:
            where = f"{why.filename}: " if why.filename is not None else ""
            done.append((b"", f"{where}{why.strerror or why}"))
        except Exception as why:  # an item's defect is told in the archive, which has the others
            done.append((b"", f"{type(why).__name__}: {why}"))

    if seconds <= 0:
        return b"", f"no time was left of {ALL_SECONDS:g} s"
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return done[0] if done else (b"", f"it took longer than {seconds:.0f} s")


def cut(content: bytes, most: int, tail: bool) -> bytes:
    if len(content) <= most:
        return content
    room = max(0, most - len(_CUT))
    return _CUT + content[len(content) - room :] if tail else content[:room] + _CUT
