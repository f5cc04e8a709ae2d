"""A quarantine's record for people, and waiting until it is where it should be."""

from __future__ import annotations

import time
from collections.abc import Collection

import click

from sensor.cli.common import table
from sensor.cli.escape import escape, fit
from sensor.cli.find import IN_FORCE, order
from sensor.cli.reach import Hand, say
from sensor.cli.show import Column, Row, cell, column, facts, since, span, when, whole
from sensor.errors import ActError

PATIENCE_S = 300.0  # evidence of a large sandbox takes its time; the quarantine goes on without us
ENDED = frozenset({"released", "killed", "ended", "failed"})
_OVER = frozenset({"done", "failed", "skipped"})


def _expiry(record: Row) -> str:
    expires = whole(record.get("expires_ns"))
    if not expires or record.get("state") not in IN_FORCE:
        return ""
    left = expires - time.time_ns()
    then = cell(order(record).get("on_expiry"))
    return f"{then} in {span(left)}" if left > 0 else f"{then} now"


COLUMNS = (
    column("Id", "id"),
    column("State", "state"),
    Column("Sandbox", lambda record: cell(order(record).get("name")), True),
    Column("Age", lambda record: since(record.get("created_ns"))),
    Column("Expires", _expiry),
    Column("By", lambda record: cell(order(record).get("operator")).partition(",")[0].partition(":")[0]),
    Column("Reason", lambda record: cell(order(record).get("reason")), True),
)


def describe(output: str, record: Row) -> None:
    asked = order(record)
    pairs = [
        ("Id", cell(record.get("id"))),
        ("State", cell(record.get("state"))),
        ("Sandbox", cell(asked.get("name"))),
        ("Cgroup", f"{cell(asked.get('path'))} (id {cell(asked.get('sandbox_id'))})"),
        ("Reason", cell(asked.get("reason"))),
        ("By", cell(asked.get("operator"))),
        ("Begun", when(record.get("created_ns"))),
        ("Expires", f"{when(record.get('expires_ns'))}: {cell(asked.get('on_expiry'))}"),
        ("Detection", cell(asked.get("detection_id"))),
        ("Evidence", cell(record.get("evidence"))),
        ("Ended", when(record.get("ended_ns"))),
        ("Ended by", cell(record.get("ended_by"))),
        ("Ended why", cell(record.get("ended_why"))),
        ("Remark", cell(record.get("remark"))),
    ]
    absent = set() if whole(record.get("expires_ns")) else {"Expires"}
    facts(output, record, [(name, text) for name, text in pairs if text and name not in absent])
    if output == "table" and (steps := _steps(record, "steps") + _steps(record, "undone")):
        click.echo()
        rows = (
            [cell(step.get("name")), cell(step.get("state")), _took(step), cell(step.get("detail"))] for step in steps
        )
        table(("Step", "State", "Took", "What"), rows, {"What"})


def follow(hand: Hand, record: Row, until: Collection[str], before: Row | None = None) -> Row:
    """Waits until its state is one of `until`, or final; steps are told on stderr as they end, but those that had
    ended in the record `before`.

    :raises ActError: it took longer than PATIENCE_S.
    """
    quarantine_id = cell(record.get("id"))
    told = {(cell(step.get("name")), cell(step.get("state"))) for step in _steps(before or {}, "steps")}
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            for step in _steps(record, "steps") + _steps(record, "undone"):
                _tell(step, told)
            if (remark := cell(record.get("remark"))) and ("remark", remark) not in told:
                told.add(("remark", remark))
                say(remark)
            if record.get("state") in until or record.get("state") in ENDED:
                return record
            if time.monotonic() > deadline:
                raise ActError(f"{quarantine_id} is still {record.get('state')} after {PATIENCE_S:g} s")
            hand.advance()
            record = hand.quarantine(quarantine_id)
    except KeyboardInterrupt:
        goes_on = "it goes on" if hand.online else "it is finished by the next start of the daemon, or by this command"
        say(f"not waited for: {goes_on}; see pinfold quarantine describe {quarantine_id}")
        raise


def shortfall(record: Row) -> str:
    """What failed of it, of its end where it has one, in one line; "" for nothing."""
    which = "steps" if record.get("state") in {"beginning", "held"} else "undone"
    failed = [
        f"{cell(step.get('name'))} ({cell(step.get('detail'))})"
        for step in _steps(record, which)
        if step.get("state") == "failed"
    ]
    return f"failed: {'; '.join(failed)}" if failed else ""


def _steps(record: Row, which: str) -> list[Row]:
    steps = record.get(which)
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _tell(step: Row, told: set[tuple[str, str]]) -> None:
    name, state = cell(step.get("name")), cell(step.get("state"))
    if state not in _OVER or (name, state) in told:
        return
    told.add((name, state))
    line = f"  {escape(name):9} {escape(state):8} {_took(step):>7}  {escape(cell(step.get('detail')))}"
    click.echo(fit(line, 200).rstrip(), err=True)


def _took(step: Row) -> str:
    began, ended = whole(step.get("began_ns")), whole(step.get("ended_ns"))
    return span(ended - began) if began and ended > began else ""
