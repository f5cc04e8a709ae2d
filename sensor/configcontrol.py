"""Settings of the control socket: who may do what there."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from sensor.configfile import Problem


class Control(Struct, frozen=True, forbid_unknown_fields=True):
    pass


def control_problems(control: Control) -> Iterator[Problem]:
    yield from ()
