"""Whether an archive holds what its manifest says: every name, size and SHA-256. `python -m` this ARCHIVE."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import sys
import tarfile
import zlib
from typing import IO, Any

from sensor.respond.evidence.archive import MANIFEST, NAME

_MANIFEST_BYTES = 64 << 20
_MEMBER_BYTES = 1 << 31
_CHUNK = 1 << 20
_BROKEN = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, OSError)
Member = tuple[int, str]  # size, SHA-256


def verify(path: str) -> list[str]:
    """What is wrong, a line each; [] where every sum is right. One that is partial is right as far as it goes: its
    manifest says `complete: false`, see `manifest`."""
    try:
        found, text, problems = _read(path)
    except _BROKEN as why:
        return [f"cannot be read: {why}"]
    if text is None:
        return [*problems, "no manifest: its collection was killed, and nobody finished it"]
    try:
        told = {each["name"]: (each["size"], each["sha256"]) for each in json.loads(text)["members"]}
    except (ValueError, KeyError, TypeError):
        return [*problems, "the manifest is not one"]
    for name in sorted(told.keys() | found.keys()):
        if name not in found:
            problems.append(f"{name} is missing")
        elif name not in told:
            problems.append(f"{name} is not in the manifest")
        elif told[name] != found[name]:
            problems.append(f"{name} is not what the manifest says")
    return problems


def manifest(path: str) -> dict[str, Any]:
    """Empty where there is none that can be read."""
    try:
        _, text, _ = _read(path)
        found = json.loads(text or b"{}")
    except (*_BROKEN, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read(path: str) -> tuple[dict[str, Member], bytes | None, list[str]]:
    found: dict[str, Member] = {}
    text: bytes | None = None
    problems: list[str] = []
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError("not a file")
        try:
            # Not tarfile's own `r|gz`, which ends with the first gzip stream.
            with gzip.open(file) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                for each in tar:
                    content = tar.extractfile(each) if each.isreg() else None
                    if content is None or not NAME.fullmatch(each.name) or each.size > _MEMBER_BYTES:
                        problems.append("a member that is not of a collection")
                    elif each.name in found or (each.name == MANIFEST and text is not None):
                        problems.append(f"{each.name} is there twice")
                    elif each.name == MANIFEST:
                        text = content.read(_MANIFEST_BYTES)
                    else:
                        found[each.name] = _sum(content)
        except _BROKEN as why:
            problems.append(f"it ends early: {why}")
    return found, text, problems


def _sum(content: IO[bytes]) -> Member:
    digest, size = hashlib.sha256(), 0
    while part := content.read(_CHUNK):
        digest.update(part)
        size += len(part)
    return size, digest.hexdigest()


def main() -> int:
    problems = [f"{path}: {problem}" for path in sys.argv[1:] for problem in verify(path)]
    print("\n".join(problems) or "every sum is right")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
