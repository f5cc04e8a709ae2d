"""Questions about a policy, answered as rows; what answers is imported when it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sensor.cli.show import Row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sensor.config import Config


def explain(config: Config, class_name: str, kind: str, text: str, file: str | None) -> Row:
    """`kind`: connect, device or exec. :raises UsageError: it is no question."""
    from sensor.respond import questions  # noqa: PLC0415
    from sensor.respond.explain import explain as explained  # noqa: PLC0415

    asking: dict[str, Callable[[str], questions.Question]] = {
        "connect": questions.connect,
        "device": questions.device,
        "exec": questions.executable,
    }
    answer = explained(config, class_name, asking[kind](text), file=file)
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
    from sensor.respond.policytest import run  # noqa: PLC0415

    names = ("index", "line", "question", "expected", "found", "why")
    return [{"ok": bool(one.passed)} | {name: getattr(one, name) for name in names} for one in run(config, file)]


def warnings(config: Config, file: str) -> list[Row]:
    """What a policy that loads may still not mean."""
    from sensor.config import rule_paths  # noqa: PLC0415
    from sensor.respond.policycheck import Known  # noqa: PLC0415
    from sensor.respond.policycheck import warnings as warn  # noqa: PLC0415
    from sensor.rules.ruleset import load  # noqa: PLC0415

    # Loading rules takes a while: only where a response names some.
    named = any(getattr(settings.responses, "rules", ()) for settings in config.classes.values())
    rules = load(rule_paths(config), None, True, config.rules.placeholders).rules if named else ()
    known = [Known(rule.id, rule.title, rule.tags) for rule in rules] if named else None
    return [
        {"file": file, "line": one.line, "key": one.key, "reason": one.text, "severity": "warning"}
        for one in warn(config, file, known)
    ]


def suggest(lines: Iterable[bytes], sandbox: str, class_name: str) -> str:
    """YAML: what a sandbox was seen to do, as a class. :raises UsageError: nothing was seen."""
    from sensor.respond.suggest import suggest as suggested  # noqa: PLC0415

    return suggested(lines, sandbox, class_name)
