"""What sandboxes do to files that matter, in places of their own and of the host, however it is done."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.running import Line, Running, Sandbox

OPTIONS = """
files: {{places: ['{home}/trainer']}}
"""


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

    def wait(self, category: str, path: str, **wanted: Any) -> Line:
        return self.sensor.wait(self.box, category=category, TargetFilename=path, **wanted)[0]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(OPTIONS, cache=rule_cache) as running:
        (running.home / "trainer").mkdir()
        yield running


def furnish(home: Path) -> Path:
    for name in (".ssh", ".aws", ".claude"):
        (home / name).mkdir()
    (home / ".aws" / "credentials").write_text("[default]\n")
    (home / ".ssh" / "authorized_keys").write_text("")
    return home


@pytest.fixture
def shell(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> Iterator[Shell]:
    """Of a sandbox that shares the host's root."""
    shell = Shell(sensor, sandbox, furnish(tmp_path))
    try:
        yield shell.watched()
    finally:
        shell.end()


def test_what_is_done_to_a_file_on_the_host(shell: Shell) -> None:
    home = shell.home
    shell.do("echo key >> .ssh/authorized_keys")
    made = shell.wait("file_event", f"{home}/.ssh/authorized_keys")
    assert made["Action"] == "written" and made["Place"] == "host" and made["Mechanism"] == "fanotify"
    assert made["Image"] == "/usr/bin/bash" and made["ProcessId"] == shell.process.pid and made["Count"] == 1
    shell.do("echo '{}' > .claude/settings.json")
    assert shell.wait("file_event", f"{home}/.claude/settings.json")["Action"] == "created"
    shell.do("chmod 777 .ssh/authorized_keys")
    assert shell.wait("file_change", f"{home}/.ssh/authorized_keys")["Image"] == "/usr/bin/chmod"
    shell.do("chown 1:1 .claude/settings.json")
    assert shell.wait("file_change", f"{home}/.claude/settings.json")["Image"] == "/usr/bin/chown"
    shell.do("ln .ssh/authorized_keys .bashrc")
    assert shell.wait("file_event", f"{home}/.bashrc")["Image"] == "/usr/bin/ln"
    shell.do("mv .bashrc .zshrc")
    moved = shell.wait("file_rename", f"{home}/.zshrc")
    assert moved["SourceFilename"] == f"{home}/.bashrc" and moved["Action"] == "renamed"
    shell.do("echo x > innocent; mv innocent .bash_profile")
    assert shell.wait("file_event", f"{home}/.bash_profile")["Image"] == "/usr/bin/mv"
    shell.do("rm .zshrc")
    assert shell.wait("file_delete", f"{home}/.zshrc")["Image"] == "/usr/bin/rm"
    shell.do("mkdir -p .claude/hooks")
    assert not shell.told("file_event", f"{home}/innocent")


def test_what_is_read(shell: Shell) -> None:
    shell.do("cat .aws/credentials")
    read = shell.wait("file_access", f"{shell.home}/.aws/credentials")
    assert read["Action"] == "read" and read["Image"] == "/usr/bin/cat"
    shell.do("read -r line < .aws/credentials")  # a builtin
    assert shell.wait("file_access", f"{shell.home}/.aws/credentials", Image="/usr/bin/bash")


def test_processes_outside_every_sandbox_give_nothing(shell: Shell) -> None:
    before = len(shell.sensor.lines())
    path = Path(shell.home) / ".ssh" / "authorized_keys"
    path.write_text("of the host\n")
    (Path(shell.home) / ".aws" / "credentials").read_text()
    os.chmod(path, 0o600)
    shell.do("echo >> .ssh/authorized_keys")
    shell.wait("file_event", str(path))
    files = [line for line in shell.sensor.lines()[before:] if line.get("category", "").startswith("file_")]
    assert {line["ProcessId"] for line in files} == {shell.process.pid}
