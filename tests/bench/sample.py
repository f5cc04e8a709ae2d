"""How many of the twenty behaviours of `tests/live/peers/sample.py` are detected, each in all its variants."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import msgspec

from tests.bench.detection import Line
from tests.bench.harness import Figure, at_least, one_line
from tests.bench.sensing import Sensor, sensor
from tests.bench.workspace import Workspace

if TYPE_CHECKING:
    from tests.live.peers.network import Network
    from tests.live.peers.sample import Variant

BEHAVIOURS = "sample-behaviours"
NAMES = (BEHAVIOURS,)
WAIT_S = 8.0  # for the log, for detectors that look once a second, and for hours that are seconds


def run(space: Workspace, wanted: set[str]) -> list[Figure]:
    from tests.live.peers.network import Network  # noqa: PLC0415 - the peers need programs that the rest does not
    from tests.live.sampling import SETTINGS, cases  # noqa: PLC0415

    detected, note = [], []
    with sensor(space, SETTINGS) as watching, Network() as network:
        for name, variants in cases().items():
            space.tell(name)
            titles = [_title(space, watching, network, name, variant) for variant in variants]
            if all(titles):
                detected.append(name)
            note.append(f"{name}: {', '.join(dict.fromkeys(title or 'NOT DETECTED' for title in titles))}")
    return [at_least(BEHAVIOURS, float(len(detected)), "behaviours", float(len(cases())), note="; ".join(note))]


def _title(space: Workspace, watching: Sensor, network: Network, name: str, variant: Variant) -> str:
    """Of the first rule that counts, "" where none matched."""
    from tests.live.peers.sample import Stage  # noqa: PLC0415
    from tests.live.running import Sandbox  # noqa: PLC0415

    label = f"sample-{space.chance.getrandbits(32):08x}"
    folder = space.folder / label
    folder.mkdir()
    box = Sandbox(space.sandboxes / label)
    try:
        stage = Stage(network, box, folder)
        with stage.ending:
            try:
                variant(stage)
            except (AssertionError, OSError) as error:  # it did not even happen: that is this variant's result
                space.tell(f"{name}: {one_line(error, 120)}")
            return _first(watching, box.id, name)
    finally:
        with contextlib.suppress(OSError):
            box.remove()


def _first(watching: Sensor, sandbox_id: int, name: str) -> str:
    from tests.live.sampling import counts  # noqa: PLC0415

    decode = msgspec.json.Decoder(Line).decode
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        for line in map(decode, (line for line in watching.log_lines() if line.endswith(b"\n"))):
            mine = line.kind == "detection" and line.SandboxId == sandbox_id
            if mine and counts(name, line.rule.title, line.rule.level):
                return line.rule.title
        time.sleep(0.1)
    return ""
