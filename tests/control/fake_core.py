"""Plays the core behind the control socket: believes the arguments no more than the real one, and answers in kind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec

from sensor.control import arguments
from sensor.control.caller import BusyError, Caller, ConflictError
from sensor.errors import ActError, DeniedError, NotFoundError, PinfoldError, UsageError

ROW = {
    "id": 11, "name": "agent-1", "class": "default", "runtime": "docker", "path": "docker/11", "processes": 1,
    "detections": 1, "lost": {}, "state": "detected", "quarantine": "",
}  # fmt: skip
FLOW = {"tgid": 7, "protocol": "tcp", "initiated": True, "local": "10.0.0.1:1", "remote": "[::1]:22"}
RATE = {"out_per_s": 1.5, "in_per_s": 0.0}
QUARANTINE = {"id": "q1", "state": "held", "steps": [{"name": "network", "state": "done"}]}
DETECTION = {
    "v": 1, "kind": "detection", "id": "1f-a0/r", "time": "2026-01-01T00:00:00.000000000Z",
    "rule": {"id": "r", "title": "R", "level": "high", "tags": []}, "CommandLine": "curl -H token", "SandboxId": 11,
}  # fmt: skip
PROCESS = {
    "tgid": 7, "parent_tgid": 1, "image": "/bin/sh", "command_line": "sh -c x", "user": "root", "started_ns": 1,
    "cgroup_id": 11, "entered": True,
}  # fmt: skip
RECORDING = {"running": True, "path": "/x.pfr", "records": 1, "bytes": 9, "seconds": 1, "reason": ""}
ANSWERS: dict[str, Any] = {
    "resolve": {"id": 11, "name": "agent-1", "path": "docker/11"},
    "sandbox": ROW | {
        "labels": {}, "attributes": {}, "granted": ["fuse"], "born_ns": 1, "ended_ns": 0, "tampered": "",
        "flows": [FLOW], "more_flows": 0,
    },
    "tree": {"id": 11, "name": "agent-1", "processes": [PROCESS], "more": 0},
    "kill": {"id": 11, "name": "agent-1", "killed": [7], "complete": True},
    "attributes": {"id": 11, "attributes": {"team": "a"}},
    "quarantines": [QUARANTINE],
    "quarantine": QUARANTINE,
    "quarantine_add": QUARANTINE,
    "quarantine_release": QUARANTINE,
    "quarantine_kill": QUARANTINE,
    "policy": {"classes": {}, "sandboxes": []},
    "explain": {"verdict": "allowed"},
    "reload": {"asked": True},
    "disarm": {"armed": False},
    "arm": {"armed": True},
    "detections": {"detections": [DETECTION], "acknowledged": {"1f-a0/r": {"reason": "seen"}}},
    "detection": {"detections": [DETECTION], "acknowledged": {}},
    "acknowledge": {"id": "1f-a0/r", "acknowledged": {"reason": "seen"}},
    "silences": [{"id": "s1"}],
    "silence_add": {"id": "s1"},
    "silence_remove": {"id": "s1"},
    "recording": RECORDING,
    "recording_begin": RECORDING,
    "recording_end": RECORDING,
    "top": {"time_ns": 1, "sandboxes": [ROW | RATE | {"events_per_s": 1.0}],
            "talkers": [FLOW | RATE | {"sandbox": "agent-1", "sandbox_id": 11}]},
}  # fmt: skip
PROVIDED = {
    "status": {"version": "0.1.0", "armed": True, "rules": 1, "sandboxes": 1, "lost": {}},
    "sandboxes": [ROW],
    "rules": [{"id": "r", "title": "R", "level": "high", "hits": 1}],
}
# By the reference that is asked with.
FAILING: dict[str, PinfoldError] = {
    "unknown": NotFoundError("no sandbox unknown; there is agent-1"),
    "twin": ConflictError("twin is the name of 2 sandboxes: 11 (a), 12 (b)"),
    "denied": DeniedError("uid 7 may not"),
    "busy": BusyError("too many requests"),
    "failing": ActError("the kernel refused: device or resource busy"),
    "wrong": UsageError("what was meant?"),
}


class FakeCore:
    def __init__(self) -> None:
        self.asked: list[tuple[str, Any, Caller]] = []
        self.before: Callable[[str], None] = lambda _name: None
        self._lock = threading.Lock()

    def call(self, name: str, body: bytes, caller: Caller) -> bytes:
        asked = arguments.decode(name, body)
        with self._lock:
            self.asked.append((name, asked, caller))
        self.before(name)
        if arguments.changes(name) and caller.level == "read":
            raise DeniedError(f"uid {caller.uid} may not change anything")
        for member in ("ref", "sandbox", "id"):
            if (error := FAILING.get(getattr(asked, member, None) or "")) is not None:
                raise error
        if getattr(asked, "dry_run", False):
            return msgspec.json.encode({"dry_run": True, "would": ["nothing"]})
        return msgspec.json.encode(ANSWERS[name])

    def of(self, name: str) -> list[Any]:
        return [asked for known, asked, _ in self.asked if known == name]
