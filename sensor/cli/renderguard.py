"""Escapes, attempts on the sensor, files and system calls, each in one line for people."""

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


def file(record: Record) -> str:
    action, target = text(record, "Action"), text(record, "TargetFilename")
    before = text(record, "SourceFilename")
    what = f"changed attributes of {target}" if action == "attributes" else f"{action} {target}"
    return f"{program(record)} {what}" + (f", before {before}" if before else "") + _times(record)


def system_call(record: Record) -> str:
    parts = [text(record, "SystemCall")]
    if record.get("TargetProcessId"):
        parts.append(f"of {text(record, 'TargetImage') or 'process'} ({text(record, 'TargetProcessId')})")
    if record.get("Signal"):
        parts.append(f"signal {text(record, 'Signal')}")
    if record.get("Capability"):
        parts.append(text(record, "Capability") + ("" if record.get("Granted") else ", refused"))
    return f"{program(record)} {' '.join(parts)}" + _times(record)


def _times(record: Record) -> str:
    count = record.get("Count")
    return f", {count} times" if isinstance(count, int) and count > 1 else ""


SUBJECTS: dict[str, Callable[[Record], str]] = {
    "process_migration": migration,
    "sensor_access": access,
    "file_event": file,
    "file_access": file,
    "file_rename": file,
    "file_delete": file,
    "file_change": file,
    "system_call": system_call,
}
