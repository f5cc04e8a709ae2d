from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.cli import main
from tests.cli.fake_daemon import HOSTILE, Api, sandbox
from tests.cli.terminal import REPOSITORY


def completed(*words: str) -> list[str]:
    """What bash would be offered for the last of these."""
    done = subprocess.run(
        [sys.executable, "-m", "sensor.cli"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "_PINFOLD_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("pinfold", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stderr == ""
    return [line.removeprefix("plain,") for line in done.stdout.split()]


def test_commands_are_completed(here: Path) -> None:
    assert completed("quarantine", "") == ["add", "describe", "kill", "list", "release"]


@pytest.mark.parametrize(
    "words", [("kill", "agent"), ("quarantine", "add", "agent"), ("policy", "explain", "--sandbox", "agent")]
)
def test_sandboxes_are_completed(api: Api, words: tuple[str, ...]) -> None:
    assert completed(*words) == ["agent-1", "agent-2"]


def test_quarantines_are_completed(api: Api) -> None:
    api.quarantined(12)
    api.quarantined(11, "ended")
    assert completed("quarantine", "release", "") == ["agent-2", "q-1"]


@pytest.mark.parametrize(
    "name", [HOSTILE, "agent-$(reboot)", "agent-1;reboot", "agent-*", "agent 7", "agent-\nx", "agent-`x`", "--x"]
)
def test_a_name_that_a_shell_could_take_for_more_is_not_offered(api: Api, name: str) -> None:
    api.sandboxes = [sandbox(1, name), sandbox(2, "agent-1"), sandbox(3, "agent-2")]
    assert completed("kill", "agent") == ["agent-1", "agent-2"]


def test_without_a_daemon_nothing_is_offered_and_nothing_said(here: Path) -> None:
    assert completed("kill", "") == []
    (here / "c.yaml").write_text("nonsense: [")
    assert completed("kill", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_is_printed_is_a_script_of_that_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_PINFOLD_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


def test_another_shell_is_2() -> None:
    assert main(["completion", "csh"]) == 2
