from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.cli import main
from sensor.cli.sandbox import _tree
from tests.cli.fake_daemon import Api


def test_each_process_stands_below_its_parent(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "tree", "agent-1"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "101 bash -c work",
        "├─ 102 python \\x1b[2Jtool.py",
        "│  └─ 104 /usr/bin/ssh",
        "└─ 103 sleep 1",
    ]


def test_a_line_a_process(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sandbox", "tree", "agent-1", "-o", "compact"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "102\t101\tpython \\x1b[2Jtool.py"
    assert main(["sandbox", "tree", "agent-1", "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["processes"]) == 4


PROCESS = st.fixed_dictionaries(
    {"tgid": st.integers(0, 9), "parent_tgid": st.integers(0, 9), "command_line": st.text()}
)


@given(st.lists(PROCESS, unique_by=lambda one: one["tgid"]))
def test_each_is_told_once_whatever_their_parents(processes: list[dict[str, Any]]) -> None:
    lines = list(_tree(processes))
    assert len(lines) == len(processes)
    assert all(line.isprintable() for line in lines)


def test_a_chain_of_any_depth_is_no_trouble() -> None:
    chain = [{"tgid": n, "parent_tgid": n - 1, "image": "sh"} for n in range(1, 20_000)]
    lines = list(_tree(chain))
    assert len(lines) == len(chain)
    assert max(map(len, lines)) < 100
