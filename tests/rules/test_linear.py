"""Text that a sandbox chooses costs in proportion to its length: counted, not timed.

What Python itself executes must not grow with the text; then the text is only ever handed to C, a fixed number of
times, and each of those passes over it once (find, casefold, split, RE2).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from sensor.rules.engine import Engine
from sensor.rules.sigma import build as build_files
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

TOP = Path(__file__).resolve().parents[2]
SHORT, LONG = 4 << 10, 64 << 10
# An index that forgets what it remembered, when that is too much, does so once: some byte codes more, whatever the
# length. Anything done for each character, or each word, would be thousands.
SLACK = 500

# What begins like literals and regexes of rules again and again, and never ends as they do.
SEEDS = (
    "a",
    "-",
    " -R",
    "ssh -R 1:",
    "/dev/tcp/",
    "stratum+tc",
    "*?*?",
    "\\",
    "((((",
    "\0",
    "é",
    "\N{KELVIN SIGN}",
    "x\n",
    "--url=stratum --url=",
    "base64 -d | sh ; ",
    "/../",
    "aaaaab",
)


class Work:
    """Byte codes that ran, and calls of Python and C, while it is entered."""

    def __init__(self) -> None:
        self.opcodes = self.calls = 0

    def __enter__(self) -> Work:
        sys.setprofile(self._called)
        sys.settrace(self._traced)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.setprofile(None)

    def _called(self, _frame: FrameType, event: str, _argument: object) -> None:
        self.calls += event in {"call", "c_call"}

    def _traced(self, frame: FrameType, event: str, _argument: object) -> Any:
        frame.f_trace_opcodes = True
        self.opcodes += event == "opcode"
        return self._traced


def work_of(engine: Engine, category: str, event: dict[str, Any]) -> tuple[int, int]:
    built = activity(category, event)
    with Work() as work:
        engine.match(built)
    assert engine.errors == {}
    assert engine.index_errors == 0
    return work.opcodes, work.calls


def repeated(seed: str, length: int) -> str:
    return (seed * (length // len(seed) + 1))[:length]


def of_argv(text: str) -> tuple[str, dict[str, Any]]:
    return "process_creation", {"Image": "/bin/x", "CommandLine": text}


def of_one_argument(text: str) -> tuple[str, dict[str, Any]]:
    return "process_creation", {"Image": "/bin/x", "argv": ["x", text.replace("\0", "0")]}


def of_image(text: str) -> tuple[str, dict[str, Any]]:
    return "process_creation", {"Image": f"/{text}", "ImageInvoked": text, "ParentCommandLine": text}


def of_file(text: str) -> tuple[str, dict[str, Any]]:
    return "file_event", {"TargetFilename": text, "CommandLine": text}


def of_host(text: str) -> tuple[str, dict[str, Any]]:
    return "network_connection", {"DestinationHostname": text, "DestinationIp": text, "CommandLine": text}


@pytest.fixture(scope="module", params=[True, False], ids=["indexed", "plain"])
def engine(request: pytest.FixtureRequest) -> Engine:
    ruleset = build_files([TOP / "rules", TOP / "tests/data/foreign"])
    assert ruleset.refused == ()
    return Engine(ruleset, prefilter=request.param)


@pytest.mark.parametrize("seed", SEEDS, ids=repr)
@pytest.mark.parametrize("shape", [of_argv, of_one_argument, of_image, of_file, of_host], ids=lambda f: f.__name__)
def test_all_rules_over_hostile_text(
    engine: Engine, shape: Callable[[str], tuple[str, dict[str, Any]]], seed: str
) -> None:
    work_of(engine, *shape(repeated(seed, SHORT - 1)))  # what is remembered of other fields is so from now on
    opcodes, calls = work_of(engine, *shape(repeated(seed, SHORT)))
    more_opcodes, more_calls = work_of(engine, *shape(repeated(seed, LONG)))
    assert more_opcodes <= opcodes + SLACK
    assert more_calls <= calls + SLACK // 10


@pytest.mark.parametrize(
    "detection",
    [
        "CommandLine|re: '(a+)+$'",
        "CommandLine|re: '(a|aa)*b(a|aa)*b$'",
        "CommandLine|re|i: '^(([a-z])+.)+[A-Z]([a-z])+$'",
        "CommandLine: '*a*a*a*a*a*a*a*b'",
        "CommandLine: 'a?a?a?*a?a?b*'",
        "CommandLine|windash|contains|all: [' -a ', ' -b ']",
        "CommandLine|base64offset|contains: aaaaaa",
        "a1|re: '(x+x+)+y'",
        "a31: z",
        "process.args: ['*a*a*b']",
    ],
)
def test_patterns_that_would_be_the_end_of_a_backtracking_engine(detection: str) -> None:
    engine = Engine(build(rule_text(f"s:\n  {detection}\ncondition: s")), prefilter=False)
    assert len(engine.rules) == 1
    for seed in ("a", "a ", "x\0", "aA", "YWFh"):
        work_of(engine, *of_argv(repeated(seed, SHORT - 1)))
        assert work_of(engine, *of_argv(repeated(seed, SHORT))) == work_of(engine, *of_argv(repeated(seed, LONG)))


def test_the_counter_sees_work_that_grows() -> None:
    engine = Engine(build(rule_text("s:\n  Image: /x\ncondition: s")))

    def slow(event: Any) -> bool:
        return sum(1 for _ in event.CommandLine) < 0

    (category,) = engine._by_type.values()
    for entry in category.entries:
        entry.test = slow
    category.find = lambda _: 1
    assert work_of(engine, *of_argv("a" * LONG))[0] > 10 * work_of(engine, *of_argv("a" * SHORT))[0]
