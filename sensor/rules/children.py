"""The compiler's processes, as the core starts them: files in, encoded units out."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import msgspec

from sensor.errors import RuleError
from sensor.rules import setting
from sensor.rules.setting import Setting

if TYPE_CHECKING:
    import subprocess

COMPILE_SECONDS = 120
FILES_A_CHILD = 60  # below, a further child costs more than it takes off the others
MOST_CHILDREN = 4

_UNITS = msgspec.msgpack.Decoder(dict[str, bytes])


class Children:
    """Started as soon as it is likely that there is something to compile, they import what they need while the core
    still looks for what has changed. None of them outlives the exit."""

    def __init__(self) -> None:
        self._files: Sequence[Path] = ()
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._told = 0
        self._deadline = 0.0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Children:
        return self

    def start(self, files: Sequence[Path]) -> None:
        """As many as there are processors and work for, of all that were started. Raises RuleError."""
        self._files = files
        try:
            while len(self._started) < _many(files):
                if self._folder is None:
                    self._folder = tempfile.TemporaryDirectory(prefix="pinfold-rules-")
                self._start(Path(self._folder.name) / str(len(self._started)))
        except OSError as error:
            raise self._failed(error) from error

    def _start(self, output: Path) -> None:
        import subprocess  # noqa: PLC0415  # only when the cache lacks something: it costs the warm start 10 ms

        command = [sys.executable, "-S", "-P", "-m", "sensor.rules.child", "--keep-going", "--quiet"]
        command += ["--output", str(output), "--files-from", f"{output}.files", "--setting", f"{output}.setting"]
        # It is told where we find what we import, and need not look for it again (-S).
        where = [str(Path(__file__).parent.parent.parent), *filter(None, sys.path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(where)}
        with open(f"{output}.said", "wb") as said:
            child = subprocess.Popen(
                command, bufsize=0, env=environment, stdin=subprocess.PIPE, stdout=said, stderr=said
            )
        self._started.append((child, output))

    def compile(self, files: Sequence[Path], using: Setting) -> None:
        """These they shall, and nothing else: of those that were started in vain, they end. Raises RuleError."""
        self.start(files)
        self._deadline = time.monotonic() + COMPILE_SECONDS
        self._told = _many(files)
        for child, _ in self._started[self._told :]:
            child.kill()
        try:
            for number, (child, output) in enumerate(self._started[: self._told]):
                Path(f"{output}.setting").write_bytes(setting.encode(using))
                Path(f"{output}.files").write_bytes(b"\0".join(map(os.fsencode, files[number :: self._told])))
                assert child.stdin is not None
                with contextlib.suppress(BrokenPipeError):  # it has died, of which its status tells more
                    child.stdin.write(b"\n")  # its end alone would not do: a fork of ours may hold it open
        except OSError as error:
            raise self._failed(error) from error

    def results(self) -> dict[str, bytes]:
        """Each file's encoded unit, when all have ended. Raises RuleError."""
        found: dict[str, bytes] = {}
        try:
            for child, output in self._started[: self._told]:
                if child.wait(max(0.1, self._deadline - time.monotonic())):
                    said = Path(f"{output}.said").read_bytes().decode("utf-8", "replace")
                    reason = f"it ended with status {child.returncode}: {said.strip().rpartition(chr(10))[2]}"
                    raise self._failed(reason)
                found |= _UNITS.decode(output.read_bytes())
        except RuleError:
            raise
        except Exception as error:  # of the file system, of subprocess (which is not imported here), of msgspec
            raise self._failed(error) from error
        if not all(str(file) in found for file in self._files):
            raise self._failed("it left out a file")
        return found

    def _failed(self, reason: object) -> RuleError:
        return RuleError(f"{self._files[0]}:1: the rules' compiler failed: {reason}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child, _ in self._started:
            if child.poll() is None:
                child.kill()
                child.wait()
            if child.stdin is not None:
                child.stdin.close()
        if self._folder is not None:
            self._folder.cleanup()


def _many(files: Sequence[Path]) -> int:
    if not files:
        return 0
    return max(1, min(len(os.sched_getaffinity(0)), MOST_CHILDREN, len(files) // FILES_A_CHILD))
