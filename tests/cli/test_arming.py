from __future__ import annotations

from pathlib import Path

import pytest

from sensor.cli import main
from sensor.respond.disarm import Arming


def test_disarm_and_arm_without_a_sensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"instance: arming-test\npaths: {{state: {tmp_path}/state, bpffs: {tmp_path}/bpf}}\n")
    arming = Arming(tmp_path / "state")
    for _ in range(2):
        assert main(["disarm", "--config", str(config)]) == 0
        assert arming.disarmed()
        out, err = capsys.readouterr()
        assert out == ""
        assert err.splitlines()[0] == "no probes are pinned for the instance arming-test"
        assert "nothing is refused and nobody is killed" in err
    assert main(["arm", "--config", str(config)]) == 0
    assert not arming.disarmed()


def test_a_marker_that_cannot_be_written_is_1_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state").write_text("a file in the way")
    config = tmp_path / "c.yaml"
    config.write_text(f"paths: {{state: {tmp_path}/state, bpffs: {tmp_path}/bpf}}\n")
    assert main(["disarm", "--config", str(config)]) == 1
    assert "pinfold: " in capsys.readouterr().err
