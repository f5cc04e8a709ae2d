from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import orjson
import pytest
from rich.cells import cell_len

from sensor.cli import main
from sensor.config import Config, Log, Paths
from sensor.export import EventLog
from sensor.export.reader import backwards
from tests.cli.test_app import COMMAND, REPOSITORY
from tests.export import samples

HOSTILE = "a\x1b[31m\u202eb\n\x9b2J"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "pinfold.yaml"
    path.write_text(f"paths: {{log: {tmp_path}/log}}\nlog: {{max_bytes: 8192, keep: 50}}\n")
    return str(path)


@pytest.fixture
def log(tmp_path: Path, config: str) -> EventLog:
    log = EventLog(Config(paths=Paths(log=f"{tmp_path}/log"), log=Log(max_bytes=8192, keep=50)), lambda *_: None)
    log.recover()
    return log


def fill(log: EventLog, first: int, last: int) -> None:
    for position in range(first, last + 1):
        log.add_activity(samples.process_creation(position=position, CommandLine=HOSTILE))
        log.flush()


def ids(output: str) -> list[str]:
    return [orjson.loads(line)["id"] for line in output.splitlines()]


def test_the_latest_come_oldest_first_over_rotated_files(
    config: str, log: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(log, 1, 40)
    assert main(["events", "--config", config, "-o", "json", "-n", "30"]) == 0
    out, err = capsys.readouterr()
    assert ids(out) == [f"1f-{position:x}" for position in range(11, 41)]
    assert err == ""


def test_json_is_the_log_s_own_and_harmless(config: str, log: EventLog, capsys: pytest.CaptureFixture[str]) -> None:
    fill(log, 1, 1)
    assert main(["events", "--config", config, "-o", "json"]) == 0
    out = capsys.readouterr().out
    assert out.removesuffix("\n").isprintable()
    assert orjson.loads(out) == orjson.loads(next(backwards(log.path)))
    assert orjson.loads(out)["CommandLine"] == HOSTILE


@pytest.mark.parametrize("width", ["80", "120"])
def test_compact_fits_the_terminal(
    config: str, log: EventLog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    log.add_activity(samples.process_creation(CommandLine=HOSTILE + "漢" * 500))
    log.flush()
    monkeypatch.setenv("COLUMNS", width)
    assert main(["events", "--config", config]) == 0
    line = capsys.readouterr().out.removesuffix("\n")
    assert line.isprintable()
    assert int(width) - 2 <= cell_len(line) <= int(width)


def test_compact_into_a_pipe_is_not_cut(
    config: str, log: EventLog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log.add_activity(samples.process_creation(CommandLine="x" * 500))
    log.flush()
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["events", "--config", config]) == 0
    assert capsys.readouterr().out.endswith("x" * 500 + "\n")


def test_filters_reach_the_log(config: str, log: EventLog, capsys: pytest.CaptureFixture[str]) -> None:
    log.add_detection(samples.detection())
    log.add_activity(samples.process_creation(ImageMemfd=True))
    log.add_activity(samples.network_connection(SandboxName="agent-2"))
    log.flush()
    for arguments, number in (
        (["--kind", "detection", "--level", "high"], 1),
        (["--level", "critical"], 0),
        (["--sandbox", "agent-2"], 1),
        (["--category", "process_creation"], 2),
        (["--where", "ImageMemfd=true", "--where", "Image=*ssh"], 1),
        (["--rule", "Reverse SSH tunnel"], 1),
        (["-n", "0"], 0),
        (["-n", "2"], 2),
    ):
        assert main(["events", "--config", config, "-o", "json", *arguments]) == 0
        assert len(capsys.readouterr().out.splitlines()) == number, arguments


def test_no_log_is_one_line_and_1(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--config", config]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pinfold: no log at ")
    assert err.count("\n") == 1


def test_following_goes_on_over_rotations_until_interrupted(config: str, log: EventLog) -> None:
    fill(log, 1, 3)
    arguments = ["events", "--config", config, "--follow", "-n", "2", "-o", "json"]
    with subprocess.Popen(
        [*COMMAND, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        seen = [child.stdout.readline(), child.stdout.readline()]
        fill(log, 4, 30)
        seen += [child.stdout.readline() for _ in range(27)]
        child.send_signal(signal.SIGINT)
        rest, complaint = child.stdout.read(), child.stderr.read()
    assert [orjson.loads(line)["id"] for line in seen] == [f"1f-{position:x}" for position in range(2, 31)]
    assert (child.returncode, rest, complaint.strip()) == (130, b"", b"")
    assert len(list(Path(log.path).parent.iterdir())) > 2


def test_a_reader_that_leaves_early_is_no_trouble(config: str, log: EventLog) -> None:
    fill(log, 1, 400)
    reader, writer = os.pipe()
    os.close(reader)
    arguments = ["events", "--config", config, "-n", "400", "-o", "json"]
    child = subprocess.run(
        [*COMMAND, *arguments], cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (child.returncode, child.stderr) == (1, b"")
