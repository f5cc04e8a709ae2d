"""Processes of other users, which connect to a socket and hold on to it. Needs root."""

from __future__ import annotations

import grp
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534
STRANGER = 54321  # a uid that nobody has
GROUP = "daemon"  # one that every Debian has, and that has no members
GID = grp.getgrnam(GROUP).gr_gid

# Isolated, since the repository may be out of the user's reach.
_HOLD = """
import socket, sys
held = []
for _ in range(int(sys.argv[2])):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(sys.argv[1])
    held.append(s)
print("connected", flush=True)
sys.stdin.read()
"""
_HAMMER = """
import socket, sys
held = []
while True:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    try:
        s.connect(sys.argv[1])
    except OSError:
        continue
    held = held[-100:] + [s]
"""
_ASK = """
import json, socket, sys
path, method, target, body = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(path)
head = f"{method} {target} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
s.sendall((head + body).encode())
answer = b""
try:
    while part := s.recv(65536):
        answer += part
except ConnectionResetError:
    pass
print(answer.partition(b" ")[2][:3].decode() or "cut")
print(answer.partition(b"\\r\\n\\r\\n")[2].decode())
"""


def _as(uid: int, gid: int, groups: Sequence[int], *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["/usr/bin/python3", "-I", "-S", "-c", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=uid,
        group=gid,
        extra_groups=list(groups),
        cwd="/",
    )


@contextmanager
def holding(
    path: Path | str, uid: int = 0, gid: int = 0, groups: Sequence[int] = (), times: int = 1
) -> Iterator[subprocess.Popen[str]]:
    """A process that has connected, and says nothing."""
    process = _as(uid, gid, groups, _HOLD, str(path), str(times))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "connected\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def hammering(path: Path | str, uid: int, groups: Sequence[int] = ()) -> Iterator[None]:
    """A process that connects as fast as it can, and holds on to the latest hundred."""
    process = _as(uid, uid, groups, _HAMMER, str(path))
    try:
        yield
    finally:
        process.kill()
        process.communicate()


def ask(
    path: Path | str, method: str, target: str, body: str = "", uid: int = 0, groups: Sequence[int] = ()
) -> tuple[str, str]:
    """Status (`cut` where nobody answered) and body, of one request as this user."""
    process = _as(uid, uid, groups, _ASK, str(path), method, target, body)
    output, _ = process.communicate(timeout=60)
    status, _, rest = output.partition("\n")
    return status, rest.rstrip("\n")


@contextmanager
def open_folder() -> Iterator[Path]:
    """pytest's own are root's alone, and stay so."""
    with tempfile.TemporaryDirectory(prefix="pinfold-test-") as folder:
        os.chmod(folder, 0o755)  # noqa: S103 - others pass through it
        yield Path(folder)
