"""`python -m tests.benign.record FILE [NAME…]`: the benign set, really done, watched and recorded."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from sensor.cli.rulesbaseline import baseline, said
from sensor.config import load
from sensor.control.client import Client
from tests.live.peers.benign import BENIGN
from tests.live.peers.network import RESOLVER, Network
from tests.live.running import Running

RULES = Path(__file__).resolve().parents[2] / "rules"
SETTINGS = f"dns: {{{{resolvers: [{RESOLVER}]}}}}\n"
LEFT_S = 2.5  # detectors look once a second, and what they wait for comes after the work
WHY = "the benign corpus"


def record(file: Path, names: tuple[str, ...]) -> None:
    """Raises AssertionError where a work does not do what it should."""
    with Running(SETTINGS) as sensor:
        client = Client.of(load(str(sensor.file)))
        begun = client.begin_recording(WHY, seconds=3600)
        for name in names:
            began = time.monotonic()
            with tempfile.TemporaryDirectory() as folder, sensor.sandbox(name) as box, Network() as network:
                BENIGN[name](network, box, Path(folder))
                sensor.settled(box)
                time.sleep(LEFT_S)
                sensor.settled(box)
            print(f"{name}: {time.monotonic() - began:.1f} s", flush=True)
        found = client.end_recording(WHY)
        assert found["reason"] == "it was asked for", found
        shutil.move(begun["path"], file)
        os.chmod(file, 0o644)
        lost = sensor.lost()
    print(f"{file}: {found['records']} records, {found['bytes']} bytes; lost: {lost or 'nothing'}")
    # A flow that lost its place in the kernel's table to others was told of, and its end was not.
    assert not {name for name in lost if 'reason="flows_evicted"' not in name}, lost


def main() -> int:
    file = Path(sys.argv[1])
    record(file, tuple(sys.argv[2:]) or tuple(BENIGN))
    found = baseline(str(file), [str(RULES)])
    for one in found.fired:
        print(f"{one.level}: {one.title}: {one.count}: {one.example.get('CommandLine', '')[:100]!a}")
    print(said(found))
    return found.status


if __name__ == "__main__":
    sys.exit(main())
