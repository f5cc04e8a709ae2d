"""Rules of other people's shapes on live events: arguments by place, a comm, an event id, a placeholder, a filter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.running import Running

FOREIGN = Path(__file__).resolve().parents[1] / "data/foreign"
NAMES = ("auditd_execve_without_type", "auditd_syscall_comm", "auditd_key_alone", "sysmon_network", "sshd_keywords")
OWN = """
title: {title}
id: 00000000-0000-4000-8000-00000000000{digit}
level: high
logsource: {{category: process_creation, product: linux}}
{key}:
  {body}
  condition: {condition}
"""
SETTINGS = "rules: {{paths: ['{home}/foreign'], placeholders: {{words: [pinfold-one, pinfold-two]}}}}\n"


@pytest.fixture(scope="module")
def foreign() -> Iterator[Running]:
    sensor = Running(SETTINGS)
    folder = sensor.home / "foreign"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(FOREIGN / f"{name}.yml", folder)
    said = [
        OWN.format(title="a word", digit=1, key="detection", body="s: {a1|expand: '%words%'}", condition="s"),
        OWN.format(
            title="but not this one",
            digit=2,
            key="filter",
            body="rules: [00000000-0000-4000-8000-000000000001]\n  allowed: {a2: allowed}",
            condition="not allowed",
        ),
    ]
    (folder / "own.yml").write_text("---".join(said))
    with sensor:
        yield sensor


def titles(sensor: Running, *commands: list[str]) -> list[str]:
    with sensor.sandbox() as box:
        for command in commands:
            box.run(*command)
        sensor.settled(box)
        return [line["rule"]["title"] for line in sensor.wait(box, kind="detection")]


def test_arguments_by_their_place(foreign: Running, tmp_path: Path) -> None:
    script = tmp_path / "init.d/guardd"
    script.parent.mkdir()
    script.write_text("true\n")
    found = titles(foreign, ["/bin/sh", "-u", str(script), "start"], ["/bin/sh", "-u", str(script), "stop"])
    assert found == ["Positions without a type"]


def test_a_comm_beside_the_program_that_runs(foreign: Running, tmp_path: Path) -> None:
    """The stand-in asks for /usr/bin/kmodder: a copy of a program is put there, for as long as the test takes."""
    program, link = Path("/usr/bin/kmodder"), tmp_path / "insmodder"
    assert not program.exists()
    shutil.copy("/bin/true", program)
    try:
        link.symlink_to(program)
        assert titles(foreign, [str(program)], [str(link)]) == ["A program by its comm"]
    finally:
        program.unlink()


def test_a_placeholder_and_what_a_filter_spares(foreign: Running) -> None:
    commands = [
        ["/bin/true", "pinfold-two", "allowed"],
        ["/bin/true", "x", "pinfold-two"],
        ["/bin/true", "pinfold-two"],
    ]
    assert titles(foreign, *commands) == ["a word"]


def test_a_connection_by_its_event_id(foreign: Running) -> None:
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', {}))"
    python = ["/usr/bin/python3", "-I", "-S", "-c"]
    found = titles(foreign, [*python, code.format(6668)], [*python, code.format(6667)])
    assert found == ["Sysmon’s connections"]


def test_only_rules_that_can_match_are_counted(foreign: Running) -> None:
    assert foreign.metrics()['pinfold_rules{state="loaded"}'] == 4
    assert foreign.metrics()['pinfold_rules{state="refused"}'] == 0
