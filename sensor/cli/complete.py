"""Completion of what the running daemon knows. Fast, and silent about whatever fails: it runs at a keystroke."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from sensor.cli.find import IN_FORCE, order

if TYPE_CHECKING:
    import click

    from sensor.control.client import Client

_TIMEOUT_S = 0.5
# A sandbox chooses its name, and shells put what is completed on the command line as it is: nothing is
# offered that any of them could take for more than a word.
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./@+-]{0,252}")


def sandboxes(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return _offer(context, begun, _names)


def quarantines(context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Those that are in force, by id and by their sandbox's name."""
    return _offer(context, begun, _ids)


def _offer(context: click.Context, begun: str, ask: Any) -> list[str]:
    from sensor.cli.common import settings  # noqa: PLC0415
    from sensor.control.client import Client  # noqa: PLC0415

    try:
        words = ask(Client.of(settings(context.params.get("config_path")), _TIMEOUT_S))
    except Exception:  # a traceback at a keystroke would ruin the operator's command line
        return []
    return sorted({word for word in words if word.startswith(begun) and _PLAIN.fullmatch(word)})


def _names(client: Client) -> list[str]:
    return [str(one["name"]) for one in client.get("/v1/sandboxes")]


def _ids(client: Client) -> list[str]:
    held = [one for one in client.get("/v1/quarantines") if one["state"] in IN_FORCE]
    return [str(word) for one in held for word in (one["id"], order(one).get("name", ""))]
