"""The daemon, and its answers."""

from __future__ import annotations

from typing import Any

import click

from sensor.cli.escape import escape
from sensor.cli.show import Row
from sensor.errors import ClientError

STRANGE = "are the sensor and this command of one version?"


def say(text: str) -> None:
    click.echo(f"pinfold: {escape(text)}", err=True)


def escaped(text: str) -> str:
    from sensor.control.client import segment  # noqa: PLC0415

    return segment(text)


def row(answer: Any) -> Row:
    if not isinstance(answer, dict):
        raise ClientError(f"the sensor's answer is no object: {STRANGE}")
    return answer


def rows(answer: Any, name: str) -> list[Row]:
    found = answer.get(name) if isinstance(answer, dict) else answer
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ClientError(f"the sensor's answer is no list of {name}: {STRANGE}")
    return found
