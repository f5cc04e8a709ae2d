"""Who may do what on the control socket, as the configuration says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config import Config, complete, load, refuse_fixed
from sensor.configcontrol import Control, Launcher, below
from sensor.errors import ConfigError, HostError
from tests.test_config import EXAMPLE


def read(folder: Path, control: str) -> Config:
    path = folder / "pinfold.yaml"
    path.write_text(f"control: {control}\n")
    return load(str(path))


def test_what_is_written_is_taken(tmp_path: Path) -> None:
    text = "{uids: [1000], group: pinfold, launchers: [{uid: 1200, parents: [kubepods.slice/*, trainers/gym-*]}]}"
    launcher = Launcher(1200, ("kubepods.slice/*", "trainers/gym-*"))
    assert read(tmp_path, text).control == Control((1000,), "pinfold", (launcher,))


def test_the_example_shows_a_launcher_that_loads(tmp_path: Path) -> None:
    (line,) = [line for line in EXAMPLE.read_text().splitlines() if "- {uid:" in line]
    assert read(tmp_path, f"{{launchers: [{line.partition('- ')[2]}]}}").control.launchers


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ("{uids: [0]}", "control.uids[0]", "1 to 4294967294"),
        ("{uids: [-1]}", "control.uids[0]", "1 to 4294967294"),
        ("{uids: [4294967295]}", "control.uids[0]", "1 to 4294967294"),
        (f"{{uids: {list(range(1, 70))}}}", "control.uids", "at most 64"),
        ("{uids: [root]}", "control.uids[0]", "an integer"),
        ("{uid: [1]}", "control.uid", "one of the keys group, launchers, uids"),
        ("{group: 'a b'}", "control.group", "a group's name"),
        ("{group: 12}", "control.group", "text"),
        ("{launchers: [{uid: 5}]}", "control.launchers[0]", "the key parents"),
        ("{launchers: [{uid: 5, parents: []}]}", "control.launchers[0].parents", "1 to 64 paths"),
        ("{launchers: [{uid: 0, parents: [a]}]}", "control.launchers[0].uid", "1 to 4294967294"),
        (
            "{launchers: [{uid: 5, parents: [a]}, {uid: 5, parents: [b]}]}",
            "control.launchers[1].uid",
            "each uid once",
        ),
        ("{uids: [5], launchers: [{uid: 5, parents: [a]}]}", "control.launchers[0].uid", "each uid once"),
        ("{launchers: [{uid: 5, parents: [/a]}]}", "control.launchers[0].parents[0]", "a path relative"),
        ("{launchers: [{uid: 5, parents: ['']}]}", "control.launchers[0].parents[0]", "a path relative"),
        ("{launchers: [{uid: 5, parents: [a/../b]}]}", "control.launchers[0].parents[0]", "no empty component"),
        ("{launchers: [{uid: 5, parents: [a//b]}]}", "control.launchers[0].parents[0]", "no empty component"),
        ("{launchers: [{uid: 5, parents: ['*a*']}]}", "control.launchers[0].parents[0]", "names in which *"),
        ("{launchers: [{uid: 5, parents: ['a[0]']}]}", "control.launchers[0].parents[0]", "names in which *"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_line_and_key(tmp_path: Path, text: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert f":1: {key}: expected {expected}" in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("parents", "path", "is_below"),
    [
        (("a",), "a/b", True),
        (("a",), "/a/b/c", True),
        (("a",), "a", False),
        (("a",), "ab/c", False),
        (("a/x-*",), "a/x-1/b", True),
        (("a/x-*",), "a/x-1", False),
        (("a/x-*",), "a/y-1/b", False),
        (("*",), "anything/b", True),
        (("*",), "anything", False),
        (("a*a",), "a/b", False),  # prefix and suffix do not overlap
        (("z", "a"), "a/b", True),
        ((), "a/b", False),
        (("a",), "", False),
    ],
)
def test_what_lies_below_a_parent(parents: tuple[str, ...], path: str, is_below: bool) -> None:
    assert below(parents, path) is is_below


def test_the_group_stays_until_a_restart_and_the_rest_may_change() -> None:
    now = complete(Config())
    refuse_fixed(now, complete(Config(control=Control(uids=(5,)))))
    with pytest.raises(HostError, match=r"control\.group: a change needs a restart"):
        refuse_fixed(now, complete(Config(control=Control(group="wheel"))))
