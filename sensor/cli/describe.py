"""Everything that is known of one detection, as names and texts. Nothing here is escaped: whoever prints, does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sensor.cli import rendercorrelation, rendernet
from sensor.cli.found import UNKNOWN
from sensor.cli.render import Record, level, response
from sensor.cli.rendernet import text
from sensor.cli.show import cell, when

Pairs = Iterator[tuple[str, str]]

_MOST = 64  # of anything that comes in numbers
_TOLD = frozenset({
    "v", "kind", "id", "time", "event", "category", "rule", "responses", "ack", "acks", "acknowledged", "silenced",
    "silence", "lineage", "SandboxId", "SandboxName", "SandboxClass", "ProcessId", "ProcessGuid", "Image",
    "CommandLine", "CurrentDirectory", "User", "ParentProcessId", "ParentImage", "ParentCommandLine", "EntryImage",
    "EntryCommandLine", "Existing", "Protocol", "Initiated", "DestinationIp", "DestinationPort", "DestinationHostname",
    "DestinationPath", "Verdict", "Count", "DeviceClass", "DeviceType", "DeviceMajor", "DeviceMinor", "Access",
    "BytesOut", "BytesIn", "Behavior", "Score", "ScoreParts", "DurationMs", "Correlation",
})  # fmt: skip


def described(record: Record) -> list[tuple[str, str]]:
    return [(name, value) for name, value in _pairs(record) if value]


def _pairs(record: Record) -> Pairs:
    rule = record.get("rule")
    rule = rule if isinstance(rule, dict) else {}
    yield "Id", text(record, "id")
    yield "Time", text(record, "time")
    yield "Level", level(record)
    yield "Rule", f"{text(rule, 'title')} ({text(rule, 'id')})"
    yield "Tags", cell(rule.get("tags"))
    yield from _said(record)
    class_, number = text(record, "SandboxClass"), text(record, "SandboxId")
    yield "Sandbox", f"{text(record, 'SandboxName')} (class {class_}, cgroup id {number})"
    yield from rendercorrelation.described(record)
    yield from _processes(record)
    yield from _what(record)
    yield "Event", f"{text(record, 'event')} ({text(record, 'category')})"
    for name, value in record.items():
        if name not in _TOLD and not name.endswith("_b64") and value not in (None, "", 0, False, [], {}):
            yield name, cell(value)
    yield from _responses(record)


def _said(record: Record) -> Pairs:
    acks = record.get("acks") or record.get("ack") or record.get("acknowledged")
    if acks == UNKNOWN:
        yield "Acknowledged", "not known: the sensor does not run"
        return
    for ack in (acks if isinstance(acks, list) else [acks])[:_MOST]:
        if isinstance(ack, dict):
            by, at = text(ack, "operator") or text(ack, "by"), when(ack.get("time_ns")) or text(ack, "time")
            yield "Acknowledged", ", ".join(filter(None, (at, by, text(ack, "reason"))))
        elif ack:
            yield "Acknowledged", cell(ack)
    silence = record.get("silenced") or record.get("silence")
    if silence:
        yield "Silenced", cell(silence)
    if not acks and not silence:
        yield "Said", "nothing as yet: nobody acknowledged or silenced it"


def _processes(record: Record) -> Pairs:
    lineage = record.get("lineage")
    if isinstance(lineage, list) and lineage:
        for depth, one in enumerate([one for one in lineage if isinstance(one, dict)][:_MOST]):
            yield "Lineage" if not depth else "", _process(one, text(one, "ProcessId"), "Image", "CommandLine")
    else:
        yield "Entered as", _process(record, "", "EntryImage", "EntryCommandLine")
        yield "Parent", _process(record, text(record, "ParentProcessId"), "ParentImage", "ParentCommandLine")
        yield "Process", _process(record, text(record, "ProcessId"), "Image", "CommandLine")
    yield "", f"guid {guid}" if (guid := text(record, "ProcessGuid")) else ""
    yield "User", text(record, "User")
    yield "Directory", text(record, "CurrentDirectory")
    if record.get("Existing") is True:
        yield "Seen", "it ran before the sensor did"


def _process(record: Record, tgid: str, image: str, arguments: str) -> str:
    where, line = text(record, image), text(record, arguments)
    who = f"{tgid} {where}".strip()
    return f"{who}: {line}" if line and line != where else who


def _what(record: Record) -> Pairs:
    if text(record, "Behavior"):
        parts = text(record, "ScoreParts")
        yield "Behaviour", f"{text(record, 'Behavior')}, score {text(record, 'Score')}{f': {parts}' if parts else ''}"
    yield "Destination", _destination(record)
    out, into = record.get("BytesOut"), record.get("BytesIn")
    if _number(out) or _number(into):
        yield "Bytes", f"{_number(out)} out, {_number(into)} in"
    yield "Lasted", rendernet.lasted(record.get("DurationMs"))
    if text(record, "DeviceClass"):
        numbers = f"{text(record, 'DeviceMajor')}:{text(record, 'DeviceMinor')}"
        yield (
            "Device",
            f"{text(record, 'DeviceClass')} {numbers} {text(record, 'DeviceType')}, {text(record, 'Access')}",
        )
    yield "Verdict", text(record, "Verdict")
    if _number(record.get("Count")) > 1:
        yield "Times", text(record, "Count")


def _destination(record: Record) -> str:
    if path := text(record, "DestinationPath"):
        return f"unix {path}"
    if not text(record, "DestinationIp"):
        return ""
    name = text(record, "DestinationHostname")
    accepted = "accepted from " if record.get("Initiated") is False else ""
    shown = f"{accepted}{text(record, 'Protocol')} {rendernet.endpoint(record)}"
    return f"{shown} ({name})" if name else shown


def _responses(record: Record) -> Pairs:
    responses = record.get("responses")
    found = [one for one in responses if isinstance(one, dict)] if isinstance(responses, list) else []
    outcomes = [one for one in found if one.get("outcome") != "intent"] or found
    for index, one in enumerate(outcomes[:_MOST]):
        yield "Responses" if not index else "", f"{text(one, 'time')[11:23]} {response(one)}"
    if not outcomes:
        yield (
            "Responses",
            "none" if isinstance(responses, list) else "not known: they stand in the log, which is root's",
        )


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
