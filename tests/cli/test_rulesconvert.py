from __future__ import annotations

from pathlib import Path

import pytest

from sensor.cli import main

Said = pytest.CaptureFixture[str]
FALCO = """
- rule: Netcat \x07in a container
  desc: It runs nc.
  condition: evt.type = execve and proc.name = nc and proc.aname = sshd
  priority: NOTICE
- rule: Netcat \x07in a container
  condition: and container
  append: true
- rule: Kubernetes only
  condition: ka.verb = create
  priority: NOTICE
"""


@pytest.fixture
def falco(tmp_path: Path) -> Path:
    path = tmp_path / "falco.yaml"
    path.write_text(FALCO.replace("\x07", ""))
    return path


def test_drafts_are_written_and_load(falco: Path, tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "out").mkdir()
    assert main(["rules", "convert", str(falco), "-o", str(tmp_path / "out")]) == 1, "one was not converted"
    err = capsys.readouterr().err.splitlines()
    assert err == [
        "Netcat in a container: left out: proc.aname = sshd (the draft matches more without it)",
        "Kubernetes only: not converted: names no type of event that a host's sensor has",
        "1 drafts",
    ]
    file = tmp_path / "out/netcat_in_a_container_process_creation.yml"
    assert main(["rules", "list", str(file)]) == 0
    assert "Netcat in a container" in capsys.readouterr().out
    assert main(["rules", "convert", str(falco), "-o", str(tmp_path / "out")]) == 1
    assert "File exists" in capsys.readouterr().err, "nothing is overwritten"


def test_drafts_are_printed(falco: Path, capsys: Said) -> None:
    assert main(["rules", "convert", str(falco)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("---\ntitle: Netcat in a container\n")
    assert "Image|endswith: /nc" in out


def test_what_is_no_falco_file(tmp_path: Path, capsys: Said) -> None:
    (tmp_path / "x.yaml").write_text("title: x")
    assert main(["rules", "convert", str(tmp_path / "x.yaml")]) == 1
    assert "x.yaml:1: is not a list of rules" in capsys.readouterr().err
    assert main(["rules", "convert", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "no")]) == 2
