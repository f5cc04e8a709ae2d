"""One entrance for everything that is asked of the core: who may, what is meant, done or told, and audited."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from sensor.control import arguments
from sensor.control.arguments import complaint
from sensor.control.caller import BusyError, Caller, ConflictError
from sensor.errors import DeniedError, NeverTouchError, NotFoundError, PinfoldError, UsageError
from sensor.operations import find, recording, views
from sensor.operations.acting import Acting, Answer, Target, may_change, told, would
from sensor.operations.audit import Journal
from sensor.operations.parts import OVER, Parts, absent
from sensor.operations.recent import Recent, Told, raw
from sensor.operations.top import Top
from sensor.respond.silences import Silence

_REFUSALS = (UsageError, NotFoundError, DeniedError, ConflictError, BusyError, NeverTouchError)


class Operations:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._recent = Recent()
        self._recent.load(parts.log.path)
        self._journal = Journal(parts.log)
        self._top = Top(parts)
        self._acting = Acting(parts, self._journal)
        parts.log.detected = self._recent.add
        parts.reports.quarantine = self._acting.quarantine_of
        self._reads: dict[str, Callable[[Any], Any]] = {
            "resolve": self._resolve,
            "sandbox": self._sandbox,
            "tree": self._tree,
            "quarantines": self._quarantines,
            "quarantine": self._quarantine,
            "policy": self._policy,
            "explain": self._explain,
            "detections": self._detections,
            "detection": self._detection,
            "silences": self._silences,
            "top": self._rates,
            "recording": self._recording,
        }
        self._changes: dict[str, Callable[[Any, Caller, Target], Answer]] = self._acting.handlers | {
            "reload": self._reload,
            "disarm": self._disarm,
            "arm": self._arm,
            "acknowledge": self._acknowledge,
            "silence_add": self._silence,
            "silence_remove": self._unsilence,
            "recording_begin": self._record,
            "recording_end": self._end_record,
        }

    def answer(self, name: str, body: bytes, caller: Caller) -> bytes:
        """As `call`, with JSON on both sides: what the control link wants."""
        return msgspec.json.encode(self._done(name, arguments.decode(name, body), caller))

    def call(self, name: str, asked: Mapping[str, Any], caller: Caller) -> Any:
        """:raises PinfoldError: UsageError, NotFoundError, DeniedError, ConflictError, BusyError or ActError."""
        kind = arguments.ALL.get(name)
        if kind is None:
            raise UsageError("there is no such operation")
        try:
            converted = msgspec.convert(dict(asked), kind)
        except msgspec.ValidationError as error:
            raise UsageError(complaint(error)) from error
        return self._done(name, converted, caller)

    def each_second(self, monotonic_ns: int) -> None:
        self._top.each_second(monotonic_ns)

    def status(self) -> bytes:
        """JSON; also what needs no caller."""
        parts = self._parts
        states = Counter(record.state for record in parts.quarantines.records()) if parts.quarantines else Counter()
        live = parts.enricher.sandboxes.live()
        unseen = sum(1 for each in self._recent.ids() if self._acknowledgement(each) is None)
        found = parts.reports.status(not parts.arming.disarmed()) | {
            "quarantines": dict(states),
            "ledger": parts.ledger_damage() or "sound",
            "tamperable": sum(1 for sandbox in live if parts.reports.tampered(sandbox.id)),
            "detections": len(self._recent),
            "unacknowledged": unseen,
            "reloads": {
                outcome: parts.metrics.value("pinfold_reloads_total", (outcome,)) for outcome in ("done", "failed")
            },
        }
        return msgspec.json.encode(found)

    def _done(self, name: str, asked: Struct, caller: Caller) -> Any:
        if not arguments.changes(name):
            if not caller.level:
                raise DeniedError(f"uid {caller.uid} may not read here")
            return self._reads[name](asked)
        target = Target(_named(asked))
        dry_run = bool(getattr(asked, "dry_run", False))
        reason = str(getattr(asked, "reason", ""))
        try:
            answer = self._changes[name](asked, caller, target)
        except PinfoldError as error:
            outcome = "refused" if isinstance(error, _REFUSALS) else "failed"
            if not dry_run:
                self._tell(name, target, caller, reason, outcome=outcome, detail=str(error))
            raise
        if not dry_run:
            made = str(answer.get("id", "")) if "steps" in answer else ""
            self._tell(name, target, caller, reason, outcome="done", detail=made)
        return answer

    def _tell(self, name: str, target: Target, caller: Caller, reason: str, *, outcome: str, detail: str) -> None:
        self._journal.tell(name, target.name, caller, reason, outcome=outcome, detail=detail, sandbox=target.sandbox)

    # What is read.

    def _resolve(self, asked: arguments.OfSandbox) -> Answer:
        found = find.sandbox(self._parts.enricher.sandboxes, asked.ref, ended=True)
        return {"id": found.id, "name": views.text(found.name), "path": views.text(found.path)}

    def _sandbox(self, asked: arguments.OfSandbox) -> Answer:
        found = find.sandbox(self._parts.enricher.sandboxes, asked.ref, ended=True)
        return views.described(self._parts, self._recent, found)

    def _tree(self, asked: arguments.OfSandbox) -> Answer:
        return views.tree(self._parts, find.sandbox(self._parts.enricher.sandboxes, asked.ref))

    def _quarantines(self, asked: arguments.ListQuarantines) -> list[Answer]:
        if self._parts.quarantines is None:
            raise absent("quarantines")
        records = self._parts.quarantines.records()
        return [told(record) for record in records if asked.all == "1" or record.state not in OVER]

    def _quarantine(self, asked: arguments.OfQuarantine) -> Answer:
        if self._parts.quarantines is None:
            raise absent("quarantines")
        return told(self._parts.quarantines.get(asked.id))

    def _policy(self, _: arguments.Nothing) -> Answer:
        config = self._parts.config()
        return {
            "classes": msgspec.to_builtins(config.classes),
            "sandboxes": msgspec.to_builtins(config.sandboxes),
            "armed": not self._parts.arming.disarmed(),
        }

    def _explain(self, asked: arguments.Explain) -> Any:
        question = {
            name: value
            for name, value in (("connect", asked.connect), ("device", asked.device), ("exec", asked.exec))
            if value is not None
        }
        if len(question) > 1:
            raise UsageError(f"one of connect, device and exec at a time, not {' and '.join(question)}")
        sandbox = find.sandbox(self._parts.enricher.sandboxes, asked.sandbox)
        if self._parts.explain is None:
            raise absent("explanations")
        return dict(self._parts.explain(sandbox, question))

    def _detections(self, asked: arguments.ListDetections) -> Answer:
        name, sandbox_id = "", 0
        if asked.sandbox is not None:
            try:
                sandbox_id = find.sandbox(self._parts.enricher.sandboxes, asked.sandbox, ended=True).id
            except NotFoundError:
                name = asked.sandbox  # over and forgotten, yet its detections are known
                if not self._recent.latest(name, 0, "", "", 1):
                    raise
        found = self._recent.latest(name, sandbox_id, asked.level or "", asked.rule or "", asked.limit)
        return {"detections": raw(found), "acknowledged": self._acks([one.id for one in found])}

    def _detection(self, asked: arguments.OfDetection) -> Answer:
        found = self._known(asked.id)
        return {"detections": raw([found]), "acknowledged": self._acks([found.id])}

    def _acks(self, ids: list[str]) -> Answer:
        found = {each: self._acknowledgement(each) for each in ids}
        return {each: ack for each, ack in found.items() if ack is not None}

    def _acknowledgement(self, detection_id: str) -> Any | None:
        return self._parts.silences.acks().get(detection_id) if self._parts.silences is not None else None

    def _silences(self, _: arguments.Nothing) -> list[Any]:
        found = self._parts.silences.listed() if self._parts.silences is not None else []
        return [msgspec.to_builtins(each) for each in found]

    def _rates(self, _: arguments.Nothing) -> Answer:
        return self._top.answer(time.monotonic_ns())

    def _recording(self, _: arguments.Nothing) -> Answer:
        return recording.told(self._parts)

    # What is changed for the whole sensor.

    def _reload(self, asked: arguments.Because, caller: Caller, _: Target) -> Answer:
        may_change(caller)
        if asked.dry_run:
            return would("read the configuration and the rules again")
        self._parts.reload()
        return {"asked": True}

    def _disarm(self, asked: arguments.Because, caller: Caller, _: Target) -> Answer:
        may_change(caller)
        if asked.dry_run:
            return would("refuse nothing and kill nobody until `pinfold arm`")
        # Both halves are tried, whatever becomes of the first: each lifts something.
        try:
            self._parts.arming.disarm()
        finally:
            self._parts.arm(False)
        return {"armed": False}

    def _arm(self, asked: arguments.Because, caller: Caller, _: Target) -> Answer:
        may_change(caller)
        if asked.dry_run:
            return would("enforce what the configuration says")
        self._parts.arm(True)
        self._parts.arming.arm()
        return {"armed": True}

    def _acknowledge(self, asked: arguments.Acknowledge, caller: Caller, target: Target) -> Answer:
        may_change(caller)
        found = self._known(asked.id)
        target.sandbox = self._parts.enricher.sandboxes.by_id.get(found.sandbox_id)
        if self._parts.silences is None:
            raise absent("acknowledgements")
        if asked.dry_run:
            return would(f"acknowledge {found.id}")
        made = self._parts.silences.acknowledge(found.id, asked.reason, str(caller))
        return {"id": found.id, "acknowledged": made}

    def _silence(self, asked: arguments.AddSilence, caller: Caller, target: Target) -> Answer:
        may_change(caller)
        if self._parts.silences is None:
            raise absent("silences")
        if asked.rule is asked.sandbox is asked.class_ is None:
            raise UsageError("what to silence: a rule, a sandbox or a class, one at least")
        if asked.from_seconds >= asked.until_seconds:
            raise UsageError("from_seconds: expected before until_seconds")
        sandbox = self._silenced(asked, target) if asked.sandbox is not None else ""
        now, second = time.time_ns(), 1_000_000_000
        wanted = Silence(
            "", asked.reason, str(caller), now + asked.from_seconds * second, now + asked.until_seconds * second,
            asked.rule or "", sandbox, asked.class_ or "",
        )  # fmt: skip
        if asked.dry_run:
            chosen = (("rule", wanted.rule), ("sandbox", wanted.sandbox), ("class", wanted.class_))
            return would(f"silence {', '.join(f'{name} {value}' for name, value in chosen if value)}")
        made: Answer = msgspec.to_builtins(self._parts.silences.add(wanted))
        target.name = str(made["id"])
        return made

    def _silenced(self, asked: arguments.AddSilence, target: Target) -> str:
        """An id stays an id, and a name a name, which may come again. One that is not there yet may be awaited."""
        assert asked.sandbox is not None
        try:
            target.sandbox = find.sandbox(self._parts.enricher.sandboxes, asked.sandbox)
        except NotFoundError:
            if not asked.from_seconds or asked.sandbox.isdigit():
                raise
            return asked.sandbox
        return target.sandbox.name if target.sandbox.name == asked.sandbox else str(target.sandbox.id)

    def _unsilence(self, asked: arguments.RemoveSilence, caller: Caller, _: Target) -> Answer:
        may_change(caller)
        if self._parts.silences is None:
            raise absent("silences")
        if asked.dry_run:
            return would(f"end the silence {asked.id}")
        self._parts.silences.remove(asked.id)
        return {"id": asked.id}

    def _record(self, asked: arguments.BeginRecording, caller: Caller, _: Target) -> Answer:
        return recording.begin(self._parts, asked, caller)

    def _end_record(self, asked: arguments.Because, caller: Caller, _: Target) -> Answer:
        return recording.end(self._parts, asked, caller)

    def _known(self, detection_id: str) -> Told:
        found = self._recent.get(detection_id)
        if found is None:
            raise NotFoundError(f"no detection {views.text(detection_id, 64)!a} among the latest {len(self._recent)}")
        return found


def _named(asked: Struct) -> str:
    """What it says that it is about, before that is looked up."""
    return next((str(value) for name in ("ref", "sandbox", "id") if (value := getattr(asked, name, None))), "")
