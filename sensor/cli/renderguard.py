"""Escapes and attempts on the sensor, each in one line for people."""

from __future__ import annotations

from collections.abc import Callable

from sensor.cli.rendernet import Record, program, text


def migration(record: Record) -> str:
    crossed = f"{program(record)} {text(record, 'Direction')} its sandbox's cgroup, {text(record, 'Way')}"
    if record.get("MoverProcessId") == record.get("ProcessId"):
        return f"{crossed} by itself"
    return f"{crossed} by {text(record, 'MoverImage') or 'somebody outside'} ({text(record, 'MoverProcessId')})"


def access(record: Record) -> str:
    target = text(record, "Target") or "process"
    told = {
        "signal": f"sends signal {text(record, 'Signal')} to the sensor's {target}",
        "trace": f"traces the sensor's {target}",
        "bpf": "asks for the right to use BPF",
        "perfmon": "asks for the right to watch the whole host",
    }
    refused = ", refused" if record.get("Refused") else ""
    return f"{program(record)} {told.get(text(record, 'Attempt'), 'reaches for the sensor')}{refused}"


SUBJECTS: dict[str, Callable[[Record], str]] = {"process_migration": migration, "sensor_access": access}
