"""What answers questions about a policy; found when asked, so that the command stands without it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sensor.cli.show import Row
from sensor.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sensor.config import Config


def explain(config: Config, class_name: str, question: Row) -> Row:
    """`question`: one of connect, device and exec with its text."""
    module = _module("sensor.respond.explain")
    return _row(module.explain(config, class_name, module.Question(**question)))


def test(config: Config) -> list[Row]:
    """The policy's own examples; each row has `ok`."""
    return [_row(one) for one in _module("sensor.respond.examples").run(config)]


def suggest(lines: Iterable[bytes]) -> str:
    """YAML: what a sandbox was seen to do, as a class."""
    text: str = _module("sensor.respond.suggest").suggest(lines)
    return text


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as why:
        if why.name != name:
            raise
        raise HostError(f"this version of pinfold has no {name}") from why


def _row(answer: Any) -> Row:
    import msgspec  # noqa: PLC0415

    found: Row = msgspec.to_builtins(answer)
    return found
