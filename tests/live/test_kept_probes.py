"""A cold start with what an earlier one compiled: no compiler, and the same sight. What is spoiled is compiled anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.running import Running


@pytest.fixture
def no_compiler(tmp_path: Path) -> str:
    """A folder for PYTHONPATH in which bcc cannot be imported."""
    folder = tmp_path / "without"
    (folder / "bcc").mkdir(parents=True)
    (folder / "bcc" / "__init__.py").write_text("raise ImportError('no compiler here')")
    return str(folder)


def watch(sensor: Running) -> None:
    """It sees a program, by an event whose id has the generation's own number."""
    with sensor.sandbox() as box:
        assert box.run("/bin/true").returncode == 0
        sensor.wait(box, category="process_creation", Image=lambda path: path.endswith("/true"))


def test_the_second_cold_start_needs_no_compiler(tmp_path: Path, no_compiler: str) -> None:
    cache = str(tmp_path / "cache")
    with Running(cache=cache) as first:
        watch(first)
    with Running(cache=cache, PYTHONPATH=no_compiler) as second:
        watch(second)


def test_a_spoiled_one_is_compiled_anew(tmp_path: Path, no_compiler: str) -> None:
    cache = tmp_path / "cache"
    with Running(cache=str(cache)) as first:
        watch(first)
    (file,) = cache.glob("probes-*.cache")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AssertionError, match="bcc"), Running(cache=str(cache), PYTHONPATH=no_compiler):
        pass
    with Running(cache=str(cache)) as second:
        watch(second)
    with Running(cache=str(cache), PYTHONPATH=no_compiler) as third:
        watch(third)
