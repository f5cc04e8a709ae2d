"""The systemd unit: valid, hardened, and honest about what it leaves out."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.packaging.tools import PACKAGING, tool

UNIT = PACKAGING / "systemd" / "pinfold.service"
TEXT = UNIT.read_text()
COMMENTS = " ".join(line.lstrip("# ") for line in TEXT.splitlines() if line.startswith("#"))
SETTINGS = [line for line in TEXT.splitlines() if re.match(r"[A-Z]\w*=", line)]
# In tenths, as --threshold takes it. Comparable sensors' units are at 86 to 96.
MOST_EXPOSED = 46


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("systemd-analyze"), *arguments], check=False, capture_output=True, text=True)


def security(unit: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", *arguments, str(unit))


def test_systemd_verifies_it(tmp_path: Path) -> None:
    """With the program's place replaced by one that exists: verify looks for it."""
    unit = tmp_path / UNIT.name
    unit.write_text(TEXT.replace("/opt/pinfold/.venv/bin/pinfold", "/usr/bin/python3"))
    done = analyze("verify", str(unit))
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if UNIT.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_exposure_is_bounded(tmp_path: Path) -> None:
    done = security(UNIT)
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    bare = tmp_path / UNIT.name
    bare.write_text("[Service]\nExecStart=/usr/bin/python3\n")
    assert security(bare).returncode != 0


def test_what_is_left_out_has_its_reason() -> None:
    """Whatever systemd-analyze still holds against the unit is either set, or named in a comment."""
    silent = []
    for row in json.loads(security(UNIT, "--json=short").stdout):
        if row["exposure"] in (None, "0.0"):
            continue
        names = [name for name in row["name"].replace("~", "").split("/") if name.endswith("=") or "=" in name]
        directives = {name.partition("=")[0] for name in names}
        if not any(f"{name}=" in COMMENTS or any(s.startswith(f"{name}=") for s in SETTINGS) for name in directives):
            silent.append(row["name"])
    assert silent == []


def test_each_capability_has_its_reason() -> None:
    bounding = next(line for line in SETTINGS if line.startswith("CapabilityBoundingSet="))
    capabilities = bounding.partition("=")[2].split()
    assert capabilities
    assert [name for name in capabilities if not re.search(rf"\b{name.removeprefix('CAP_')}\b", COMMENTS)] == []


@pytest.mark.parametrize(
    "setting",
    [
        "Type=notify",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "WatchdogSec=30s",
        "NoNewPrivileges=yes",
    ],
)
def test_what_the_daemon_relies_on(setting: str) -> None:
    assert setting in SETTINGS
