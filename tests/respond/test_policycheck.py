"""A policy's own examples, and what it may not mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sensor.config import load
from sensor.respond import policycheck, policytest, questions
from sensor.respond.explain import Host, asker
from sensor.respond.policycheck import Known
from tests.respond.test_explain import DENY, POLICY, Asked, line_of


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


# Examples.

EXAMPLES = """
examples:
- {class: agents, connect: "10.1.2.3:443", expect: allowed}
- {class: agents, connect: "10.1.2.3:22", expect: allowed}
- {class: agents, device: nvidia9x, expect: refused}
- {class: watched, exec: /usr/bin/socat, expect: would-kill}
- {class: agents, detection: {level: low, tags: [attack.t1496], score: 90}, expect: kill-sandbox}
- {connect: "10.1.2.3", expect: allowed}
"""


def test_a_policy_s_examples_are_asked(asked: Asked) -> None:
    Path(asked.file).write_text(POLICY + EXAMPLES)
    outcomes = policytest.run(load(asked.file), asked.file, asked.host)
    assert [each.passed for each in outcomes] == [True, False, False, True, True, False]
    first = POLICY.count("\n") + 3
    assert [each.line for each in outcomes] == list(range(first, first + 6))
    wrong = outcomes[1]
    assert (wrong.question, wrong.expected, wrong.found) == ("agents: connect 10.1.2.3:22", "allowed", "refused")
    assert f"{asked.file}:{line_of(DENY)}: classes.agents.egress.default" in wrong.why
    assert "did you mean" in outcomes[2].why or "no device" in outcomes[2].why
    assert outcomes[4].question == "agents: detection low, attack.t1496, score 90"


def test_a_policy_without_examples_passes_none(asked: Asked) -> None:
    assert policytest.run(asked.config, asked.file) == []


# Warnings.


def cautions(folder: Path, text: str, rules: list[Known] | None = None) -> list[str]:
    file = folder / "p.yaml"
    file.write_text(text)
    host = Host(str(folder / "absent"), str(folder / "absent"))
    return [
        f"{each.line}: {each.key}: {each.text}"
        for each in policycheck.warnings(load(str(file)), str(file), rules, host)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("classes: {a: {responses: {high: kill}}}", "1: classes.a.responses: kill is only told, since"),
        ("classes: {a: {denied_protocols: [ssh]}}", "1: classes.a.denied_protocols: only told"),
        ("classes: {a: {egress: {default: deny}}}", "1: classes.a.egress.default: only told"),
        ("classes: {a: {granted_devices: [memory]}}", "1: classes.a.granted_devices[0]: whoever may open memory"),
        (
            "classes: {a: {granted_devices: ['nvidia:GPU-5a1f3c9d-0a1b-2c3d-4e5f-60718293a4b5']}}",
            "1: classes.a.granted_devices[0]: nvidia:GPU-5a1f3c9d-0a1b-2c3d-4e5f-60718293a4b5 is not granted as yet",
        ),
        (
            "classes: {a: {mode: enforce, egress: {default: deny, allow: [{to: x.org}]}}}",
            "1: classes.a.egress.allow[0]: x.org leads nowhere",
        ),
        (
            "dns: {resolvers: [10.0.0.53]}\n"
            "classes: {a: {mode: enforce, egress: {default: deny, allow: [{to: 10.1.0.0/16}]}}}",
            "1: dns.resolvers[0]: 10.0.0.53 is not in the list of a",
        ),
        (
            "classes: {a: {mode: enforce, denied_protocols: [ssh], "
            "egress: {default: deny, allow: [{to: 10.0.0.0/8, ports: [22]}]}}}",
            "1: classes.a.egress.allow[0]: port 22 is allowed, and ssh",
        ),
        (
            "classes: {a: {responses: {exceptions: [{executable: /absent/git, destination: 10.0.0.1, reason: x}]}}}",
            "1: classes.a.responses.exceptions[0].executable: /absent/git is no file",
        ),
        (
            "sandboxes: [{path: d/*, class: s}]\nclasses: {s: {mode: enforce}, m: {}}\n"
            "assign: [{labels: {a: b}, class: m}]",
            "3: assign[0]: whoever starts a container can label it into m",
        ),
    ],
)  # fmt: skip
def test_what_may_not_be_meant_is_warned_of(tmp_path: Path, text: str, expected: str) -> None:
    (told,) = cautions(tmp_path, text)
    assert told.startswith(expected)


def test_a_link_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "nc").symlink_to("/bin/true")
    text = f"classes: {{a: {{mode: enforce, denied_executables: {{paths: [{tmp_path}/nc]}}}}}}"
    (told,) = cautions(tmp_path, text)
    assert "leads to /" in told and "deny that" in told


def test_rules_that_are_not_loaded_are_warned_of(tmp_path: Path) -> None:
    text = (
        "classes: {a: {mode: enforce, responses: {rules: [{rule: relay, action: kill}, {rule: Relay, action: kill}, "
        "{tag: attack.t1*, action: kill}, {tag: attack.t2*, action: kill}]}}}"
    )
    assert cautions(tmp_path, text) == []
    told = cautions(tmp_path, text, [Known("id", "Relay", ("attack.t1090",))])
    assert [line.partition(": ")[2].partition(":")[0] for line in told] == [
        "classes.a.responses.rules[0].rule",
        "classes.a.responses.rules[3].tag",
    ]


def test_the_same_asker_answers_many(asked: Asked) -> None:
    ask: Any = asker(asked.config, asked.file, asked.host)
    assert ask("agents", questions.device("kvm")).verdict == "allowed"
    assert ask("open", questions.connect("10.0.0.1:1")).verdict == "allowed"
