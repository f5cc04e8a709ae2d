"""The demo as an operator runs it: it passes, and whatever happens to it, nothing is left behind."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.demo.command import INSTANCE_PREFIX
from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount

DEMO = [sys.executable, "-m", "sensor.demo"]
README = Path(__file__).parents[2] / "README.md"
COMMANDS = ["sudo packaging/start", "sudo packaging/start --demo", "sudo packaging/test"]
PASS_SECONDS = 180
STOP_SECONDS = 60
INTERRUPTIONS = 6
# Other tests name what they make of the demo's parts alike, with more digits; they may run at the same time.
MADE = re.compile(re.escape(INSTANCE_PREFIX) + r"[0-9a-f]{8}(?![0-9a-f])")


def leftovers() -> set[str]:
    """Everything of any demo on this host: what one makes carries its name, or holds a file or namespace that does."""
    places = (tempfile.gettempdir(), "/dev", "/run/netns", "/sys/fs/bpf", find_cgroup2_mount())
    found = {str(path) for place in places for path in Path(place).iterdir() if MADE.match(path.name)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (command := _command(entry)) is not None:
            found.add(f"process {entry.name}: {command}")
    return found


def _command(process: Path) -> str | None:
    try:
        arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return arguments if MADE.search(arguments) else None


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Another demo may run on this host at the same time: what was there before is not ours."""
    before = leftovers()
    yield
    assert leftovers() - before == set()


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        DEMO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def full_run() -> tuple[int, str, str, float]:
    started = time.monotonic()
    with start() as demo:
        said, complained = demo.communicate(timeout=PASS_SECONDS)
    return demo.returncode, said, complained, time.monotonic() - started


def test_the_demo_passes(full_run: tuple[int, str, str, float]) -> None:
    status, said, complained, _ = full_run
    assert (status, complained) == (0, ""), said
    for word in ("detected", "banner", "score", "killed", "refused", "cut", "passed"):
        assert f" {word} " in said
    assert max(map(len, said.splitlines())) <= 80


def lines(text: str) -> list[str]:
    """Without what differs from run to run and from host to host: numbers, names, the kind of device, and what else
    was detected of a program until it was gone."""
    text = re.sub(r"/dev/\S*(nvidia\w+), (made for the demo|a real device)", r"\1", text)
    text = re.sub(r"\n +and \d+ more(?=\n)", "", text)
    return re.sub(r"\d[\d.]*", "0", text).splitlines()


def test_the_readme_shows_what_the_demo_says(full_run: tuple[int, str, str, float]) -> None:
    blocks = README.read_text().split("```")[1::2]
    assert [line.split("#")[0].strip() for line in blocks[0].strip().splitlines()] == COMMANDS
    said = iter(lines(full_run[1]))
    # In this order; a slow machine may have a detection more in between.
    assert [line for line in lines(blocks[1].strip()) if line not in said] == []


@pytest.mark.parametrize("turn", range(INTERRUPTIONS))
def test_interrupted_at_any_moment_nothing_is_left(full_run: tuple[int, str, str, float], turn: int) -> None:
    """One random moment in each sixth of a run; once the demo's whole group gets the signal, as a terminal sends it."""
    moment = full_run[3] * (turn + random.random()) / INTERRUPTIONS  # noqa: S311  # a moment, no secret
    number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
    with start() as demo:
        try:
            demo.wait(moment)
        except subprocess.TimeoutExpired:
            if turn % 3 == 0:
                os.killpg(demo.pid, number)
            else:
                demo.send_signal(number)
        said, complained = demo.communicate(timeout=STOP_SECONDS)
    # It may have passed just before; before its handlers stand, Python's own end it.
    assert demo.returncode in {0, 128 + number, -number, 1 if "KeyboardInterrupt" in complained else 0}, (
        f"after {moment:.2f} s: {complained}\n{said}"
    )


def test_a_failing_demo_cleans_up_and_says_so(tmp_path: Path) -> None:
    """Its sensor cannot start: nothing listens to READY, since there is no daemon where it looks for one."""
    broken = (
        "import sys; import sensor.demo.watch as watch; watch.CONFIG = 'nonsense: true\\n'; "
        "from sensor.demo import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken], check=False, capture_output=True, text=True, timeout=PASS_SECONDS
    )
    assert done.returncode == 1
    assert "not seen: OSError: the sensor did not start" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_wants_root() -> None:
    """One line, status 1."""
    code = "import os, sys; os.geteuid = lambda: 1000; from sensor.demo import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "pinfold demo must run as root: sudo packaging/start --demo\n"
