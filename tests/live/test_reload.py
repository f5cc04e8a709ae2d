"""SIGHUP: rules and policy are swapped at once, and whatever is wrong with the new ones keeps the old in force."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.rulefiles import break_rule, write_rule
from tests.live.running import Running, Sandbox

OPEN = """
import os, sys
try:
    os.close(os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK))
    print(0)
except OSError as error:
    print(error.errno)
"""
RELOADED = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/mine']}}
sandboxes:
  - {{path: "{instance}/late-*", class: late}}
classes:
  late: {{mode: monitor, granted_devices: []}}
"""


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    made = Running(config=RELOADED)
    write_rule(made, "first", "pinfold-first")
    with made:
        yield made


@pytest.fixture
def node() -> Iterator[str]:
    """A GPU's device node of our own; whether a driver is there does not matter to who asks first."""
    path = f"/dev/shm/pinfold-{unique()}"
    os.mknod(path, 0o020666, os.makedev(195, 0))
    yield path
    os.unlink(path)


def reload(sensor: Running, outcome: str) -> str:
    """SIGHUP, until it is counted; what was said meanwhile."""
    name = f'pinfold_reloads_total{{outcome="{outcome}"}}'
    before, said = sensor.metrics()[name], len(sensor.said())
    assert sensor.process is not None
    sensor.process.send_signal(signal.SIGHUP)
    sensor.until(lambda: sensor.metrics()[name] == before + 1, f"a reload that is {outcome}")
    assert "Traceback" not in sensor.said()
    return sensor.said()[said:]


@pytest.fixture
def restored(running: Running) -> Iterator[Running]:
    """With its files as they were, and reloaded, after the test."""
    files = {path: path.read_text() for path in (running.file, *running.home.glob("mine/*"))}
    yield running
    for path in running.home.glob("mine/*"):
        path.unlink()
    for path, text in files.items():
        path.write_text(text)
    reload(running, "done")


def detected(sensor: Running, *words: str) -> list[str]:
    """Titles of the rules that match a program with these arguments."""
    with sensor.sandbox(f"late-{unique()}") as box:
        box.run("/bin/true", *words)
        sensor.settled(box)
        return sorted(line["rule"]["title"] for line in sensor.of(box, kind="detection"))


def opened(sensor: Running, node: str) -> int:
    """errno of an open in a sandbox of the class `late`."""
    with sensor.sandbox(f"late-{unique()}") as box:
        return int(box.python(OPEN, node).stdout)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


Spoil = Callable[[Running], str]


def spoil_yaml(sensor: Running) -> str:
    sensor.file.write_text("classes: [\n")
    return f"{sensor.file}:"


def spoil_value(sensor: Running) -> str:
    change(sensor.file, "mode: monitor", "mode: enforced")
    return "classes.late.mode: expected one of monitor, enforce, found 'enforced'"


def spoil_what_is_fixed(sensor: Running) -> str:
    with sensor.file.open("a") as file:
        file.write("ring: {size_bytes: 1048576}\n")
    return "ring: a change needs a restart"


def spoil_patterns(sensor: Running) -> str:
    more = "".join(f'  - {{path: "more-{number}/*"}}\n' for number in range(8))
    change(sensor.file, "sandboxes:\n", "sandboxes:\n" + more)
    change(sensor.file, "mode: monitor", "mode: enforce")
    return "10 patterns"


def spoil_rule(sensor: Running) -> str:
    write_rule(sensor, "other", "pinfold-other")
    change(sensor.file, "mode: monitor", "mode: enforce")
    return break_rule(sensor.home / "mine" / "first.yml")


@pytest.mark.parametrize("spoil", [spoil_yaml, spoil_value, spoil_what_is_fixed, spoil_patterns, spoil_rule])
def test_a_reload_that_is_wrong_keeps_what_is_in_force(restored: Running, node: str, spoil: Spoil) -> None:
    expected = spoil(restored)
    said = reload(restored, "failed")
    assert "reload refused, what was in force stays in force" in said
    assert expected in said, said
    assert detected(restored, "pinfold-first", "pinfold-other") == ["first"]
    assert opened(restored, node) != errno.EPERM
    notices = [line for line in restored.lines() if line["kind"] == "notice" and "reload" in line["text"]]
    assert notices[-1]["text"] == "reload refused"
    assert expected in notices[-1]["fields"]["reason"]


def test_a_reload_swaps_rules_and_policy(restored: Running, node: str) -> None:
    assert detected(restored, "pinfold-first", "pinfold-second") == ["first"]
    with restored.sandbox(f"late-{unique()}") as older:
        assert int(older.python(OPEN, node).stdout) != errno.EPERM
        change(restored.file, "mode: monitor", "mode: enforce")
        (restored.home / "mine" / "first.yml").unlink()
        write_rule(restored, "second", "pinfold-second")
        reload(restored, "done")
        assert int(older.python(OPEN, node).stdout) == errno.EPERM, "also in a sandbox that was there before"
    assert opened(restored, node) == errno.EPERM
    assert detected(restored, "pinfold-first", "pinfold-second") == ["second"]


def test_a_reload_after_a_wrong_one_takes_hold(restored: Running, node: str) -> None:
    spoil_value(restored)
    reload(restored, "failed")
    change(restored.file, "mode: enforced", "mode: enforce")
    reload(restored, "done")
    assert opened(restored, node) == errno.EPERM


def test_a_reload_finds_sandboxes_of_a_new_pattern(restored: Running) -> None:
    folder = Path(restored.mount) / f"pinfold-{unique()}"
    folder.mkdir()
    box = Sandbox(folder / "new-1")
    try:
        change(restored.file, "sandboxes:\n", f'sandboxes:\n  - {{path: "{folder.name}/new-*", class: late}}\n')
        reload(restored, "done")
        box.run("/bin/true", "pinfold-first")
        assert restored.wait(box, kind="detection")[0]["rule"]["title"] == "first"
    finally:
        box.remove()
        folder.rmdir()
