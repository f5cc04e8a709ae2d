"""What follows a detection: by rule, tag or score, else by level; how often, how soon, and for whom not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, cast, get_args

from msgspec import Struct

from sensor.configexecutables import path_problem
from sensor.configfile import KeyPath, Problem, found
from sensor.confignetwork import Prefix, port_range, prefix_of

Action = Literal["log", "kill", "freeze", "quarantine", "kill-sandbox"]
Level = Literal["informational", "low", "medium", "high", "critical"]
ACTIONS: tuple[str, ...] = get_args(Action)
LEVELS: tuple[str, ...] = get_args(Level)
HOLDS = frozenset({"freeze", "quarantine"})  # what the budget counts

MOST_RULES = 256
MOST_EXCEPTIONS = 256
MOST_GRACE_SECONDS = 3600
MOST_A_MINUTE = 1000
_TEXT_CHARACTERS = 200


class ResponseRule(Struct, frozen=True, forbid_unknown_fields=True):
    """What is given must hold, all of it."""

    action: Action
    rule: str = ""  # the rule's id or title
    tag: str = ""  # one of its tags, * and ? in it as wildcards
    level: Literal["any", "informational", "low", "medium", "high", "critical"] = "any"
    score_at_least: int = 0  # of a behaviour


class Budget(Struct, frozen=True, forbid_unknown_fields=True):
    quarantines_per_minute: int = 10  # freezes among them; beyond, only told


class ResponseException(Struct, frozen=True, forbid_unknown_fields=True):
    """Both must be the detection's: what it is about is then only logged."""

    executable: str  # on the host; its inode counts, as it is when the policy is loaded
    destination: str  # address or network, and a port where one is meant: 10.0.0.0/8:443, [2001:db8::/32]:443
    reason: str


class Responses(Struct, frozen=True, forbid_unknown_fields=True):
    """In monitor mode it is only logged what would be done."""

    informational: Action = "log"
    low: Action = "log"
    medium: Action = "log"
    high: Action = "log"
    critical: Action = "log"
    rules: tuple[ResponseRule, ...] = ()  # the first that fits goes before the level's
    exceptions: tuple[ResponseException, ...] = ()
    budget: Budget = Budget()
    grace_seconds: int = 0


def actions(responses: Responses) -> set[str]:
    """All that may follow."""
    return {getattr(responses, level) for level in LEVELS} | {rule.action for rule in responses.rules}


def parse_destination(text: str) -> tuple[Prefix, int] | None:
    """Network and port, 0 for every port; None where it is none."""
    match = re.fullmatch(r"\[([0-9a-fA-F:.]+(?:/[0-9]{1,3})?)\](?::([0-9]{1,5}))?", text)
    if match is None:
        match = re.fullmatch(r"([0-9.]+(?:/[0-9]{1,2})?)(?::([0-9]{1,5}))?|([0-9a-fA-F:.]+(?:/[0-9]{1,3})?)", text)
    if match is None:
        return None
    prefix = prefix_of(match[1] or match[match.lastindex or 0])
    ports = port_range(int(match[2])) if match[2] else (0, 0)
    if prefix is None or ports is None or (match[2] and not ports[0]):
        return None
    return prefix, ports[0]


def response_problems(at: KeyPath, responses: Responses) -> Iterator[Problem]:
    """`at`: the path of the section."""
    if len(responses.rules) > MOST_RULES:
        yield Problem((*at, "rules"), f"at most {MOST_RULES} entries", found(len(responses.rules)))
    else:
        yield from _rules((*at, "rules"), responses.rules)
    if len(responses.exceptions) > MOST_EXCEPTIONS:
        yield Problem((*at, "exceptions"), f"at most {MOST_EXCEPTIONS} entries", found(len(responses.exceptions)))
    else:
        for index, exception in enumerate(responses.exceptions):
            yield from _exception((*at, "exceptions", index), exception)
    if not 0 <= responses.grace_seconds <= MOST_GRACE_SECONDS:
        yield Problem((*at, "grace_seconds"), f"0 to {MOST_GRACE_SECONDS}", found(responses.grace_seconds))
    yield from _budget((*at, "budget", "quarantines_per_minute"), responses)


def _budget(at: KeyPath, responses: Responses) -> Iterator[Problem]:
    budget = responses.budget.quarantines_per_minute
    if not 0 <= budget <= MOST_A_MINUTE:
        yield Problem(at, f"0 to {MOST_A_MINUTE}", found(budget))
    elif not budget and HOLDS & actions(responses):
        # It would never be done, and whoever wrote it expects it to be.
        yield Problem(at, "1 or more, since something is answered with freeze or quarantine", found(budget))


def _rules(at: KeyPath, rules: tuple[ResponseRule, ...]) -> Iterator[Problem]:
    for index, rule in enumerate(rules):
        here = (*at, index)
        if not rule.rule and not rule.tag and rule.level == "any" and not rule.score_at_least:
            yield Problem(here, "rule, tag, level or score_at_least beside the action", "none of them")
        for name in ("rule", "tag"):
            if (expected := _text_problem(text := cast(str, getattr(rule, name)))) is not None:
                yield Problem((*here, name), expected, found(text))
            elif name == "tag" and "[" in text:
                yield Problem((*here, name), "* and ? as the only wildcards", found(text))
        if not 0 <= rule.score_at_least <= 100:
            yield Problem((*here, "score_at_least"), "0 to 100", found(rule.score_at_least))
        for earlier in range(index):
            if covers(rules[earlier], rule):
                said = f"an entry that can never be the first, after {at[-1]}[{earlier}]"
                yield Problem(here, "an entry that no earlier one fits as well", said)
                break


def covers(one: ResponseRule, other: ResponseRule) -> bool:
    """Whether whatever fits the other fits this one too, as far as their texts tell."""
    return (
        one.rule in ("", other.rule)
        and one.tag in ("", other.tag)
        and one.level in ("any", other.level)
        and one.score_at_least <= other.score_at_least
    )


def _text_problem(text: str) -> str | None:
    if len(text) > _TEXT_CHARACTERS or not text.isprintable():
        return f"at most {_TEXT_CHARACTERS} printable characters"
    return None


def _exception(at: KeyPath, exception: ResponseException) -> Iterator[Problem]:
    if (expected := path_problem(exception.executable)) is not None:
        yield Problem((*at, "executable"), expected, found(exception.executable))
    if parse_destination(exception.destination) is None:
        expected = "an address or network, and a port where one is meant, such as 10.0.0.0/8:443 or [2001:db8::/32]:443"
        yield Problem((*at, "destination"), expected, found(exception.destination))
    if not exception.reason.strip() or (expected := _text_problem(exception.reason)) is not None:
        yield Problem((*at, "reason"), expected or "why, for whoever reads it later", found(exception.reason))
