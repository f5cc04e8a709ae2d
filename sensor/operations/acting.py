"""What is done to one sandbox: killed, quarantined, released, given attributes. By root, control.uids, and a launcher
below its parents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from sensor.configcontrol import below
from sensor.control import arguments
from sensor.control.caller import Caller, ConflictError
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.errors import ActError, DeniedError, NeverTouchError
from sensor.operations import find
from sensor.operations.audit import Journal
from sensor.operations.parts import OVER, Asked, Parts, Record, absent
from sensor.operations.views import text
from sensor.respond.cgroupfs import CgroupDirectory
from sensor.respond.kill import Gone
from sensor.respond.nevertouch import Refusal

STEPS = ("network", "sockets", "devices", "exec", "freeze", "evidence", "hold")
MOST_TOLD = 1024  # tgids
_UNTOLD = frozenset({"stopped", "spared"})  # of a record: thousands of processes

Answer = dict[str, Any]


class Target(Struct):
    """What an operation turned out to be about, for the audit."""

    name: str = ""
    sandbox: Sandbox | None = None


def may_touch(caller: Caller, path: str) -> None:
    """:raises DeniedError:"""
    if caller.level == "touch" and isinstance(caller.allowed, tuple) and below(caller.allowed, path):
        return
    if caller.level == "touch":
        raise DeniedError(f"uid {caller.uid} may only touch sandboxes below its parents in control.launchers")
    may_change(caller)


def may_change(caller: Caller) -> None:
    """:raises DeniedError:"""
    if caller.level != "change":
        raise DeniedError(f"uid {caller.uid} may not change anything: it is not in control.uids")


class Acting:
    def __init__(self, parts: Parts, journal: Journal) -> None:
        self._parts = parts
        self._journal = journal
        self.handlers: dict[str, Callable[[Any, Caller, Target], Answer]] = {
            "kill": self._kill,
            "attributes": self._attributes,
            "quarantine_add": self._add,
            "quarantine_release": self._release,
            "quarantine_kill": self._kill_quarantined,
        }

    def quarantine_of(self, sandbox_id: int) -> str:
        """Id of the one that holds a sandbox; "" of none."""
        record = self._parts.quarantines.of(sandbox_id) if self._parts.quarantines is not None else None
        return record.id if record is not None and record.state not in OVER else ""

    def _sandbox(self, ref: str, caller: Caller, target: Target) -> Sandbox:
        if caller.level not in {"change", "touch"}:
            may_change(caller)
        found = find.sandbox(self._parts.enricher.sandboxes, ref)
        target.name, target.sandbox = found.name, found
        may_touch(caller, found.path)
        return found

    def _kill(self, asked: arguments.KillSandbox, caller: Caller, target: Target) -> Answer:
        sandbox = self._sandbox(asked.ref, caller, target)
        if asked.dry_run:
            members = self._checked(sandbox)
            return would(f"kill {len(members)} processes in {text(sandbox.path)}, and those that left it")
        self._journal.tell("kill", sandbox.name, caller, asked.reason, outcome="intent", sandbox=sandbox)
        try:
            done = self._parts.killer.kill(sandbox.id)
        except Gone as error:
            raise ConflictError("nothing of it is left") from error
        except OSError as error:
            raise ActError(f"the kernel refused: {error.strerror}") from error
        if isinstance(done, Refusal):
            raise NeverTouchError(f"{text(sandbox.path)}: never touched: {done.reason}")
        return {
            "id": sandbox.id,
            "name": text(sandbox.name),
            "killed": list(done.tgids[:MOST_TOLD]),
            "complete": done.complete,
        }

    def _attributes(self, asked: arguments.SetAttributes, caller: Caller, target: Target) -> Answer:
        sandbox = self._sandbox(asked.ref, caller, target)
        if self._parts.attributes is None:
            raise absent("attributes")
        if asked.dry_run:
            return would(f"give it {len(asked.attributes)} attributes instead of those that it has")
        try:
            self._parts.attributes.put(sandbox, asked.attributes)
        except OSError as error:
            raise ActError(f"they cannot be kept: {error.strerror}") from error
        return {"id": sandbox.id, "attributes": dict(asked.attributes), "class": sandbox.class_}

    def _add(self, asked: arguments.AddQuarantine, caller: Caller, target: Target) -> Answer:
        sandbox = self._sandbox(asked.sandbox, caller, target)
        if self._parts.quarantines is None:
            raise absent("quarantines")
        if asked.dry_run:
            return self._would_quarantine(asked, sandbox)
        order = Asked(
            sandbox.id, "/" + sandbox.path.strip("/"), text(sandbox.name), asked.reason, str(caller),
            asked.ttl_seconds, asked.on_expiry, asked.freeze, asked.loopback, asked.evidence, asked.detection_id,
        )  # fmt: skip
        return told(self._parts.quarantines.add(self._parts.order(order)))

    def _would_quarantine(self, asked: arguments.AddQuarantine, sandbox: Sandbox) -> Answer:
        held = self.quarantine_of(sandbox.id)
        if held:
            return would(f"nothing: it is held by {held} already") | {"steps": []}
        members = self._checked(sandbox)
        left_out = {name for name, wanted in (("freeze", asked.freeze), ("evidence", asked.evidence)) if not wanted}
        steps = [step for step in STEPS if step not in left_out]
        return would(f"quarantine {text(sandbox.path)} with {len(members)} processes: {', '.join(steps)}") | {
            "steps": steps
        }

    def _release(self, asked: arguments.EndQuarantine, caller: Caller, target: Target) -> Answer:
        record = self._record(asked.id, caller, target)
        assert self._parts.quarantines is not None
        if asked.dry_run:
            return would(f"release {record.id}, which is {record.state}: undo its steps in reverse")
        return told(self._parts.quarantines.release(record.id, operator=str(caller), reason=asked.reason))

    def _kill_quarantined(self, asked: arguments.EndQuarantine, caller: Caller, target: Target) -> Answer:
        record = self._record(asked.id, caller, target)
        assert self._parts.quarantines is not None
        if asked.dry_run:
            return would(f"kill everything in {text(record.order.path)}, and end {record.id}")
        return told(self._parts.quarantines.kill(record.id, operator=str(caller), reason=asked.reason))

    def _record(self, quarantine_id: str, caller: Caller, target: Target) -> Record:
        if caller.level not in {"change", "touch"}:
            may_change(caller)
        if self._parts.quarantines is None:
            raise absent("quarantines")
        record = self._parts.quarantines.get(quarantine_id)
        target.sandbox = self._parts.enricher.sandboxes.by_id.get(record.order.sandbox_id)
        may_touch(caller, record.order.path)
        return record

    def _checked(self, sandbox: Sandbox) -> list[int]:
        """Who is in it. :raises NeverTouchError:"""
        path = "/" + sandbox.path.strip("/")
        try:
            with CgroupDirectory(self._parts.mount, path, sandbox.id) as directory:
                members = directory.processes()
        except OSError as error:
            raise ConflictError("its cgroup is gone") from error
        refusal = self._parts.guard.sandbox(path, members)
        if refusal is not None:
            raise NeverTouchError(f"{text(sandbox.path)}: never touched: {refusal.reason}")
        return members


def would(*what: str) -> Answer:
    return {"dry_run": True, "would": list(what)}


def told(record: Record) -> Answer:
    """A record as it is told: its members, but for what only whoever carries it out needs."""
    names = record.__struct_fields__  # type: ignore[attr-defined]
    return {name: getattr(record, name) for name in names if name not in _UNTOLD}
