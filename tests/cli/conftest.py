from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.fake_daemon import Api


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a configuration `c.yaml` of its own, whose state and runtime are in it, and nothing is pinned."""
    (tmp_path / "run").mkdir()
    places = ", ".join(f"{name}: {tmp_path}/{folder}" for name, folder in _FOLDERS)
    (tmp_path / "c.yaml").write_text(f"instance: cli-test\npaths: {{{places}}}\n")
    return tmp_path


_FOLDERS = (("runtime", "run"), ("state", "state"), ("log", "log"), ("cache", "cache"), ("bpffs", "bpf"))


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, and every command takes it without being told."""
    monkeypatch.setenv("PINFOLD_CONFIG", str(home / "c.yaml"))
    monkeypatch.setenv("COLUMNS", "80")
    return home


@pytest.fixture
def api(here: Path) -> Iterator[Api]:
    made = Api(here / "run")
    yield made
    made.close()
