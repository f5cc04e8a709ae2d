"""Shells in sandboxes that do things to files: on the host's root, and on one of their own."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.live.running import Line, Running, Sandbox

# $1 is where it is made, $2 what is done in it before anybody looks.
OVERLAY = """
mount -t tmpfs upper "$1" && mkdir "$1/upper" "$1/work" "$1/root" &&
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root" &&
mkdir -p "$1/root/home/agent" && mount -t proc proc "$1/root/proc" && mount -t tmpfs shm "$1/root/dev/shm" &&
eval "$2" && exec chroot "$1/root" /bin/bash
"""
OVERLAY_HOME = "/home/agent"


class Shell:
    """Of a sandbox, with a home of its own. It does one line at a time; builtins make no exec."""

    def __init__(self, sensor: Running, box: Sandbox, home: Path, *wrapped: str, seen: str = "") -> None:
        self.sensor, self.box = sensor, box
        self.home = seen or str(home)
        self.process = box.start(
            *wrapped,
            "/bin/bash",
            cwd=home,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": self.home},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.do(f"cd {self.home}")

    def do(self, line: str) -> None:
        """Until it was done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        mark = secrets.token_hex(8)
        self.process.stdin.write(f"{line}\necho; echo {mark}\n".encode())
        self.process.stdin.flush()
        while (said := self.process.stdout.readline()) != f"{mark}\n".encode():
            assert said, "the shell has ended"

    def watched(self, name: str = ".profile") -> Shell:
        """Waits until what it does there is seen."""

        def seen() -> list[Line]:
            self.do(f": >> {self.home}/{name}")
            return self.told("file_event", f"{self.home}/{name}")

        self.sensor.until(seen, f"writing {name}")
        return self

    def told(self, category: str, path: str, **wanted: Any) -> list[Line]:
        return self.sensor.of(self.box, category=category, TargetFilename=path, **wanted)

    def wait(self, category: str, path: str | Callable[[str], bool], **wanted: Any) -> Line:
        return self.sensor.wait(self.box, category=category, TargetFilename=path, **wanted)[0]

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def looking(cache: str) -> Iterator[Running]:
    """A sensor that looks at a place of the host, `trainer` in its home, beside those of the rules."""
    with Running("\nfiles: {{places: ['{home}/trainer']}}\n", cache=cache) as running:
        (running.home / "trainer").mkdir()
        yield running


def contained(sensor: Running, box: Sandbox, folder: Path, before: str = ":") -> Shell:
    """With a root of its own: an overlay over the host's, in a mount namespace. `before` is done before it
    is entered; $1/root is where it is."""
    script = (
        "/usr/bin/unshare",
        "-m",
        "--propagation",
        "private",
        "/bin/bash",
        "-c",
        OVERLAY,
        "-",
        str(folder),
        before,
    )
    return Shell(sensor, box, folder, *script, seen=OVERLAY_HOME)
