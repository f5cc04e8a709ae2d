"""The committed recording of the benign set, replayed: every work is in it, and no shipped rule fires above low."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.cli.playing import play
from sensor.cli.rulesbaseline import ALARMING
from sensor.recording.file import Reader
from tests.live.peers.benign import BENIGN

TOP = Path(__file__).resolve().parents[2]
CORPUS = TOP / "tests" / "data" / "benign.pfr"
MOST_BYTES = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, object]], list[bytes]]:
    log = tmp_path_factory.mktemp("corpus") / "log"
    rows = list(play(str(CORPUS), [str(TOP / "rules")], log=str(log)))
    return rows, log.read_bytes().splitlines()


def test_it_is_whole_and_small() -> None:
    assert CORPUS.stat().st_size <= MOST_BYTES
    with Reader(str(CORPUS)) as reader:
        assert reader.whole


def test_no_rule_fires_at_medium_or_above(replayed: tuple[list[dict[str, object]], list[bytes]]) -> None:
    *detections, summary = replayed[0]
    loud = [
        (row["rule"]["title"], row["SandboxName"], str(row["CommandLine"])[:100])  # type: ignore[index]
        for row in detections
        if row["rule"]["level"] in ALARMING  # type: ignore[index]
    ]
    assert loud == []
    assert (summary["whole"], summary["undecoded"], summary["rule_errors"]) == (True, 0, 0)


def test_every_work_is_in_it(replayed: tuple[list[dict[str, object]], list[bytes]]) -> None:
    """By its sandbox, with programs run in it; most of it talks over a network too."""
    lines = [json.loads(line) for line in replayed[1]]
    ran = {line["SandboxName"] for line in lines if line.get("category") == "process_creation"}
    assert ran >= set(BENIGN)
    talked = {line["SandboxName"] for line in lines if line.get("category") == "network_flow"}
    assert set(BENIGN) - talked <= {"make"}


def test_twice_the_same_in_two_processes(replayed: tuple[list[dict[str, object]], list[bytes]], tmp_path: Path) -> None:
    """Also where hashes are others: nothing hangs on the order of a set."""
    log = tmp_path / "again"
    done = subprocess.run(
        [sys.executable, "-m", "sensor.recording.replay", CORPUS, "--log", log, "--rules", TOP / "rules"],
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(TOP)}, cwd=TOP, capture_output=True, check=True,
    )  # fmt: skip
    assert log.read_bytes().splitlines() == replayed[1]
    assert json.loads(done.stdout.splitlines()[-1]) == replayed[0][-1]
