"""rules/WRITING.md: its commands, run in its order, print what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).resolve().parents[2] / "rules" / "WRITING.md"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?(?: (\d+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FIGURES = re.compile(r"[\d.,]+")  # of a measurement, which are another machine's


def test_the_guide_does_what_it_says(tmp_path: Path) -> None:
    commands = 0
    for kind, file, line, text in _BLOCK.findall(GUIDE.read_text()):
        if kind == "console":
            for command, expected in sessions(text):
                assert shown(command, run(command, tmp_path)) == shown(command, expected), command
                commands += 1
        elif line:  # put in as this line
            there = (tmp_path / file).read_text().splitlines(keepends=True)
            (tmp_path / file).write_text("".join([*there[: int(line) - 1], text, *there[int(line) - 1 :]]))
        else:
            (tmp_path / file).write_text(text)
    assert commands >= 7


def sessions(text: str) -> list[tuple[str, str]]:
    """Commands, and what each prints."""
    found = []
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        found.append((command, expected))
    return found


def run(command: str, folder: Path) -> str:
    """Both streams; what is said on stderr first, since that is not held back."""
    pinfold = shlex.join([sys.executable, "-m", "sensor.cli"])
    environment = {**os.environ, "PYTHONPATH": str(GUIDE.parents[1]), "COLUMNS": "100"}
    done = subprocess.run(
        ["/bin/bash", "-c", command.replace("pinfold", pinfold, 1)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr + done.stdout


def shown(command: str, text: str) -> str:
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return " ".join(_FIGURES.sub("0", text).replace("─", "").split()) if "rules bench" in command else text
