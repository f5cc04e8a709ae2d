"""Every shipped rule about files speaks of places that are really looked at: its examples lie in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.files.places import BUSY, Watched
from sensor.rules.places import CATEGORIES
from sensor.rules.ruleset import load
from sensor.rules.testing import examples_file

RULES = Path(__file__).resolve().parents[2] / "rules"
# Homes, and a working directory of a program.
BASES = ("/root", "/home/agent", "/home/u", "/workspace", "/workspace/r", "/app", "/repo")


def about_files() -> list[Path]:
    wanted = re.compile(rf"^ +category: (?:{'|'.join(CATEGORIES)})$", re.MULTILINE)
    return [path for path in sorted(RULES.rglob("*.yml")) if wanted.search(path.read_text())]


FILES = about_files()


@pytest.fixture(scope="module")
def watched() -> Watched:
    ruleset = load([RULES], None)
    assert ruleset.beyond == ()
    made = Watched(ruleset.places, (), 100)
    assert made.cut == 0
    return made


def looked_at(line: dict[str, Any], path: str, bits: int) -> bool:
    """Whether the child marks the file or the folder that it is in (sensor/files/child.py)."""
    path = path.lower()
    folder = path.rpartition("/")[0] + "/"

    def within(root: str, depth: int) -> bool:
        return folder.startswith(root) and folder[len(root) :].count("/") <= depth

    exact = {text.lower() for text, its in line["paths"] if its & bits}
    exact |= {base + text.lower() for text, its in line["endings"] if its & bits for base in BASES}
    roots = [(text.lower(), depth) for text, its, depth in line["folders"] if its & bits]
    roots += [(base + text.lower(), depth) for text, its, depth in line["within"] if its & bits for base in BASES]
    return path in exact or any(within(root, depth) for root, depth in roots)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_rule_matches_is_watched(watched: Watched, path: Path) -> None:
    line = json.loads(watched.line)
    bits = CATEGORIES[yaml.safe_load(path.read_text())["logsource"]["category"]]
    for item in yaml.safe_load(examples_file(path).read_text())["match"]:
        event = item["event"]
        named = [event[field] for field in ("TargetFilename", "SourceFilename") if event.get(field)]
        assert any(watched.wants(name) & bits and looked_at(line, name, bits) for name in named), named


def test_no_rule_has_much_of_the_root_looked_through(watched: Watched) -> None:
    """A beginning of a name in /etc or /usr/bin has all of it watched, and what is installed there told."""
    folders = {text for text, _, depth in json.loads(watched.line)["folders"] if depth or text in BUSY}
    assert (
        folders & {"/", "/etc/", "/usr/", "/usr/bin/", "/bin/", "/sbin/", "/usr/lib/", "/var/lib/dpkg/info/"} == set()
    )
