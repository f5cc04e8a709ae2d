"""Rules of a test's own, in the folder `mine` of its sensor's home."""

from __future__ import annotations

from pathlib import Path

from tests.live.running import Running

RULE = """
title: {title}
id: {id}
level: high
status: test
logsource: {{category: process_creation, product: linux}}
detection:
  sel: {{CommandLine|contains: {text}}}
  condition: sel
"""


def write_rule(sensor: Running, name: str, text: str) -> Path:
    path = sensor.home / "mine" / f"{name}.yml"
    path.parent.mkdir(exist_ok=True)
    number = int.from_bytes(name.encode()[:6], "big")
    path.write_text(RULE.format(title=name, id=f"00000000-0000-4000-8000-{number:012x}"[:36], text=text))
    return path


def break_rule(path: Path) -> str:
    """What is said of it."""
    path.write_text(path.read_text().replace("condition: sel", "condition: sel and absent"))
    return f"{path}:{len(path.read_text().splitlines())}: "
