"""Executables on a file system that the sandbox serves itself, and that stops answering when it is looked at."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.respond.evidence.boxes import collect, running, sound

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")
# include/uapi/linux/fuse.h
LOOKUP, FORGET, GETATTR, OPEN, READ, RELEASE, FLUSH, INIT, INTERRUPT = 1, 2, 3, 14, 15, 18, 25, 26, 36
NODE = 2


class OneFile:
    """A FUSE file system with one file, `program`. From `stall` on, it reads requests and answers none; `release` ends
    that. Attributes are never cached, so that each fstat asks it."""

    def __init__(self, at: Path, content: bytes) -> None:
        self.at = at
        self._content = content
        self.stalls = False
        self._unanswered: list[int] = []
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self._fuse
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mount(b"one", bytes(at), b"fuse.one", 0, options) == 0, os.strerror(ctypes.get_errno())
        self._server = threading.Thread(target=self._serve)
        self._server.start()

    def close(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.umount2(bytes(self.at), 1 | 2) == 0  # MNT_FORCE, which fails what waits, and MNT_DETACH
        self._server.join()
        os.close(self._fuse)

    def release(self) -> None:
        """What waits gets an error: the program's own page fault may be among it, which no signal ends."""
        self.stalls = False
        while self._unanswered:
            with contextlib.suppress(FileNotFoundError):  # whoever asked was killed, and asks no more
                os.write(self._fuse, struct.pack("=IiQ", 16, -errno.EIO, self._unanswered.pop()))

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._fuse, 1 << 20)
            except OSError:
                return
            _, opcode, unique, node = struct.unpack_from("=IIQQ", request)
            if opcode in {FORGET, INTERRUPT}:
                continue
            if self.stalls and opcode != INIT:
                self._unanswered.append(unique)
                continue
            code, body = self._answer(opcode, node, request[40:])
            os.write(self._fuse, struct.pack("=IiQ", 16 + len(body), -code, unique) + body)

    def _answer(self, opcode: int, node: int, body: bytes) -> tuple[int, bytes]:
        if opcode == INIT:
            return 0, struct.pack("=IIIIHHIIHHI", 7, 31, 0, 0, 9, 9, 4096, 1, 1, 0, 0) + bytes(28)
        if opcode == LOOKUP:
            return 0, struct.pack("=QQQQII", NODE, 0, 3600, 0, 0, 0) + self._attributes(NODE)
        if opcode == GETATTR:
            return 0, struct.pack("=QII", 0, 0, 0) + self._attributes(node)
        if opcode == OPEN:
            return 0, struct.pack("=QII", 1, 0, 0)
        if opcode == READ:
            _, offset, size = struct.unpack_from("=QQI", body)
            return 0, self._content[offset : offset + size]
        return (0, b"") if opcode in {RELEASE, FLUSH} else (errno.ENOSYS, b"")

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFREG | 0o755 if node == NODE else stat.S_IFDIR | 0o755
        size = len(self._content)
        return struct.pack("=6Q10I", node, size, size // 512 + 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[OneFile]:
    at = tmp_path / "served"
    at.mkdir()
    one = OneFile(at, Path(shutil.which("sleep") or "").read_bytes())
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("stalls", [False, True])
def test_an_executable_that_its_sandbox_serves(tmp_path: Path, served: OneFile, stalls: bool) -> None:
    """Where no signal ends the look at it, the rest is collected all the same, and the child is not waited for."""
    # By a shell: `Popen` waits for its exec with the lock that our server needs.
    with subprocess.Popen(["sh", "-c", 'exec "$0" 600', served.at / "program"]) as process:
        try:
            deadline = time.monotonic() + 30
            while os.readlink(f"/proc/{process.pid}/exe") != str(served.at / "program"):
                assert time.monotonic() < deadline
                time.sleep(0.002)
            served.stalls = stalls
            with running("os.write(os.memfd_create('a'), b'hi')") as other:
                collected = collect(tmp_path, process.pid, other)
        finally:
            process.kill()
            served.release()
    archive = sound(collected)
    assert archive.processes[process.pid]["argv"][-1] == "600"
    found = {each["path"]: each["sha256"] for each in archive.json("executables.json")["executables"]}
    assert found.pop(str(served.at / "program"), None) == (
        None if stalls else hashlib.sha256(Path(shutil.which("sleep") or "").read_bytes()).hexdigest()
    )
    assert len(found) == 1 and [archive.members[each["name"]] for each in archive.files] == [b"hi"]
    assert collected.ok is not stalls
    if stalls:
        assert "executables of 1 processes were not hashed: it did not come in time" in collected.detail
