"""What answers questions about a policy; found when asked, so that the command stands without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sensor.cli.show import Row
from sensor.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensor.config import Config

_ASKING = {"connect": "connect", "device": "device", "exec": "executable"}


def explain(config: Config, class_name: str, kind: str, text: str, file: str | None) -> Row:
    """`kind`: connect, device or exec. :raises UsageError: it is no question."""
    question = getattr(_module("sensor.respond.questions"), _ASKING[kind])(text)
    answer = _module("sensor.respond.explain").explain(config, class_name, question, file=file)
    return {
        "verdict": answer.verdict,
        "why": answer.why,
        "where": answer.place(file or "the configuration"),
        "notes": list(answer.notes),
        "key": answer.key,
        "line": answer.line,
        "default": answer.default,
    }


def test(config: Config, file: str) -> list[Row]:
    """The policy's own examples; each row has `ok`."""
    names = ("index", "line", "question", "expected", "found", "why")
    outcomes = _module("sensor.respond.policytest").run(config, file)
    return [{"ok": bool(one.passed)} | {name: getattr(one, name) for name in names} for one in outcomes]


def warnings(config: Config, file: str) -> list[Row]:
    """What a policy that loads may still not mean."""
    from sensor.config import rule_paths  # noqa: PLC0415
    from sensor.rules.ruleset import load  # noqa: PLC0415

    try:
        warn = _module("sensor.respond.policycheck").warnings
    except HostError:
        return []
    # Loading rules takes a while: only where a response names some.
    named = any(getattr(settings.responses, "rules", ()) for settings in config.classes.values())
    rules = load(rule_paths(config), None, keep_going=True).rules if named else None
    return [
        {"file": file, "line": one.line, "key": one.key, "reason": one.text, "severity": "warning"}
        for one in warn(config, file, rules)
    ]


def suggest(lines: Iterable[bytes], sandbox: str, class_name: str) -> str:
    """YAML: what a sandbox was seen to do, as a class. :raises UsageError: it cannot be called so, or did nothing."""
    text: str = _module("sensor.respond.suggest").suggest(lines, sandbox, class_name)
    return text


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as why:
        if why.name != name:
            raise
        raise HostError(f"this version of pinfold has no {name}") from why
