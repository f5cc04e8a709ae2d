"""Files whose content is executed or loaded into the kernel: read only where nobody else could have written them.

A digest finds damage, not malice: whoever may write the file may write the digest too. Owner and mode are what counts.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path


def read(path: Path, key: bytes, most: int) -> bytes | None:
    """What `write` kept under this key; None where there is no file, or one of another key. `most`: bytes.

    :raises ValueError: not a regular file of mode 0600 that is this user's, or damaged
    :raises OSError:
    """
    try:
        content = _private(path, most)
    except FileNotFoundError:
        return None
    stored_key, _, rest = content.partition(b"\n")
    digest, _, payload = rest.partition(b"\n")
    if stored_key != key:
        return None
    if digest != hashlib.sha256(payload).hexdigest().encode():
        raise ValueError("it is damaged")
    return payload


def write(path: Path, key: bytes, payload: bytes) -> None:
    """In place of what was there, at once or not at all. `key` has no line break.

    :raises OSError:
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            file.write(b"\n".join((key, hashlib.sha256(payload).hexdigest().encode(), payload)))
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _private(path: Path, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError("it is not a file of mode 0600 that belongs to this user")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(descriptor)
