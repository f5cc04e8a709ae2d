"""A recording begun and ended: root's alone, since it holds raw what sandboxes sent and were given."""

from __future__ import annotations

from typing import Any

import msgspec

from sensor.control import arguments
from sensor.control.caller import Caller
from sensor.errors import DeniedError
from sensor.operations import find
from sensor.operations.acting import Answer, may_change, would
from sensor.operations.parts import Parts, absent
from sensor.recording.recorder import Recorder, Wanted


def told(parts: Parts) -> Answer:
    found: Any = msgspec.to_builtins(_recorder(parts).progress())
    return dict(found)


def begin(parts: Parts, asked: arguments.BeginRecording, caller: Caller) -> Answer:
    _may_record(caller)
    only = () if asked.sandbox is None else (find.sandbox(parts.enricher.sandboxes, asked.sandbox).id,)
    recorder = _recorder(parts)
    if asked.dry_run:
        return would(f"record for {asked.seconds} s, at most {asked.bytes} bytes")
    recorder.begin(Wanted(asked.seconds, asked.bytes, only))
    return told(parts)


def end(parts: Parts, asked: arguments.Because, caller: Caller) -> Answer:
    _may_record(caller)
    recorder = _recorder(parts)
    if asked.dry_run:
        return would("close the recording that goes on")
    recorder.end("it was asked for")
    return told(parts)


def _may_record(caller: Caller) -> None:
    may_change(caller)
    if caller.uid:
        raise DeniedError(f"uid {caller.uid} may not record what the sensor reads: be root")


def _recorder(parts: Parts) -> Recorder:
    if parts.recorder is None:
        raise absent("recorder")
    return parts.recorder
