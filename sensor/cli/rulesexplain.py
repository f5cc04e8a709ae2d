"""`pinfold rules explain`: which part of a rule an event matches, and which it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sensor.cli.common import config_option, json_line
from sensor.cli.escape import escape
from sensor.cli.redaction import unredacted_option
from sensor.cli.rulefind import event_help, find_event, find_rule, walked

if TYPE_CHECKING:
    from sensor.rules.explaining import Explained

MOST_CHARACTERS = 200  # of an event's value
output_option = click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)


@click.command(help=f"Say which parts of RULE the event matches: the tree of its condition.\n\n{event_help}")
@config_option
@output_option
@unredacted_option
@click.argument("rule")
@click.argument("event")
def explain(config_path: str | None, output: str, unredacted: bool, rule: str, event: str) -> None:
    from msgspec import to_builtins  # noqa: PLC0415

    from sensor.rules.explaining import document_of  # noqa: PLC0415
    from sensor.rules.explaining import explain as explained  # noqa: PLC0415

    found = find_rule(config_path, rule)
    activity, _ = find_event(config_path, event)
    result = explained(document_of(found.file, found.id), activity)
    if not unredacted:
        _redact(result)
    sent = kernel(found.file, found.id)
    if output == "json":
        json_line({**to_builtins(result), "kernel": sent})
        return
    if found.category != activity.category:
        click.echo(escape(f"The rule is about {found.category}, the event is {activity.category}."))
    for line in [*lines(result), *sent]:
        click.echo(escape(line))


def kernel(file: str, rule_id: str) -> list[str]:
    """What the probes send for its sake, where they are to leave out what no rule can match."""
    from sensor.rules.pushdown import said  # noqa: PLC0415
    from sensor.rules.ruleset import load  # noqa: PLC0415

    ruleset = load([file], None, keep_going=True)
    found = [one for one in ruleset.compiled if one.rule.id == rule_id]
    lines = [line for one in found for line in said(one.rule.category, one.wants)]
    return [f"With log.unmatched: false, {line}" for line in lines]


def _redact(result: Explained) -> None:
    """Judged was the event as it is; shown is none of its secrets."""
    from sensor.export.redact import redact_text  # noqa: PLC0415

    for _, node in walked([result.tree]):
        node.value = redact_text(node.value)


def lines(result: Explained) -> list[str]:
    """`yes` or `no` for the rule and for each part of it."""
    head = f"{_word(result.matched)}{result.title}"
    shown = [head]
    for depth, node in walked([result.tree], 1):
        value = node.value if len(node.value) <= MOST_CHARACTERS else f"{node.value[:MOST_CHARACTERS]}…"
        shown.append(f"{_word(node.matched)}{'  ' * depth}{node.text}{f'   is {value!r}' if value else ''}")
    return shown


def _word(matched: bool) -> str:
    return "yes  " if matched else "no   "
