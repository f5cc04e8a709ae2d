"""The command `pinfold`. One file a command group: parse, call, print; the work is done elsewhere."""

from __future__ import annotations

from sensor.cli.app import main

__all__ = ["main"]
