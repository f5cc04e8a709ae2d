"""The Vagrantfile, where vagrant is there to say whether it is one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.tools import TOP

TEXT = (TOP / "Vagrantfile").read_text()


@pytest.mark.skipif(shutil.which("vagrant") is None, reason="vagrant is too large to be installed for this alone")
def test_vagrant_validates_it(tmp_path: Path) -> None:
    environment = {**os.environ, "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot")}
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"],
        cwd=TOP, env=environment, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_set_up_as_any_host_is() -> None:
    assert "/opt/pinfold/packaging/start --install-only" in TEXT
    assert "packaging/systemd/pinfold.service" in TEXT
