"""The operator's hand: quarantines, silences and what is asked through the control socket, joined with the stages."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from sensor.config import Config
from sensor.enrich import gpus
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.errors import ActError
from sensor.events.detection import Detection
from sensor.export.log import EventLog
from sensor.export.reader import latest_with
from sensor.kernel import Kernel
from sensor.metrics import Metrics
from sensor.operations.front import Front
from sensor.operations.parts import Asked, Parts
from sensor.pipeline import Pipeline
from sensor.recording.recorder import Recorder
from sensor.reports import Reports
from sensor.respond import questions
from sensor.respond.disarm import Arming
from sensor.respond.evidence.collector import Collector
from sensor.respond.explain import explain
from sensor.respond.quarantine.engine import Quarantines
from sensor.respond.quarantine.record import Order, Record
from sensor.respond.questions import Question
from sensor.respond.responder import Responder
from sensor.respond.silences import Silences
from sensor.respond.table import Host

FACTS_BYTES = 4 * 1024 * 1024  # of the log's end
FACTS_EVENTS = 500
FACTS_DETECTIONS = 200
FACTS_FLOWS = 1000
EVIDENCE = "evidence"  # below paths.state
_ASK: dict[str, Callable[[str], Question]] = {
    "connect": questions.connect,
    "device": questions.device,
    "exec": questions.executable,
}


class Hand:
    """`config()` is what is in force, `reload()` asks for another; `file` is where it is from. `say` tells the operator
    and the log."""

    def __init__(  # noqa: PLR0917 - what it joins
        self,
        front: Front,
        config: Callable[[], Config],
        file: str | None,
        kernel: Kernel,
        enricher: Enricher,
        pipeline: Pipeline,
        responder: Responder,
        reports: Reports,
        log: EventLog,
        metrics: Metrics,
        arming: Arming,
        host: Host,
        say: Callable[..., None],
        reload: Callable[[], None],
        recorder: Recorder,
    ) -> None:
        self._config, self._file, self._kernel, self._log, self._say = config, file, kernel, log, say
        self._enricher, self._responder = enricher, responder
        settings, state = config().quarantine, config().paths.state
        self.quarantines = Quarantines(
            host, kernel.denials, settings, metrics, log.add_notice,
            collector=Collector(
                os.path.join(state, EVIDENCE), kernel.mount, settings.evidence_total_bytes,
                settings.evidence_file_bytes, settings.evidence_seconds,
            ),
            facts=self._facts, born_ns=self._born_ns, disarmed=arming.disarmed,
        )  # fmt: skip
        self.silences = Silences(state, say)
        responder.quarantine, responder.silences = self._hold, self.silences
        self.operations = front.open(
            Parts(
                config=config, mount=kernel.mount, enricher=enricher, pipeline=pipeline, reports=reports, log=log,
                metrics=metrics, arming=arming, arm=kernel.arm, reload=reload, killer=responder.sandboxes,
                guard=responder.guard, order=_ordered, quarantines=self.quarantines,
                ledger_damage=lambda: "; ".join(self.quarantines.damaged), silences=self.silences, attributes=self,
                explain=self._explain, flow=kernel.tables.flow, recorder=recorder,
            )
        )  # fmt: skip

    @property
    def busy(self) -> bool:
        return self.quarantines.busy

    def begin(self) -> None:
        """After what is there was looked at: what the ledger says is so again, and what was begun is finished."""
        for line in self.quarantines.recover():
            self._say(line)
        self._warn(self._config())

    def tick(self, now_ns: int) -> None:
        self.quarantines.tick(now_ns)

    def each_second(self, now_ns: int) -> None:
        self.quarantines.tick(now_ns)
        self.operations.each_second(now_ns)

    def reloaded(self, config: Config) -> None:
        self.quarantines.reload(config.quarantine)
        self._warn(config)

    def _warn(self, config: Config) -> None:
        """What is in the configuration and does not hold as yet."""
        for line in (*gpus.resolve(config, gpus.drivers()).pending, *self._responder.policy.unbound):
            self._say(line)

    def close(self) -> None:
        self.quarantines.close()

    # What a detection asks for.

    def _hold(self, detection: Detection, freeze_only: bool) -> str:
        """Id of the quarantine."""
        activity = detection.activity
        sandbox = self._enricher.sandboxes.by_id.get(activity.SandboxId)
        if sandbox is None or sandbox.ended_ns:
            raise ActError("the sandbox has ended")
        order = Order(
            sandbox.id, "/" + sandbox.path.strip("/"), sandbox.name, f"{detection.level}: {detection.rule_title}"[:500],
            f"policy: class {activity.SandboxClass}, detection {detection.id}", cut=not freeze_only,
            evidence=not freeze_only, detection_id=detection.id, since_ns=activity.monotonic_ns,
        )  # fmt: skip
        return self.quarantines.add(order).id

    def _born_ns(self, sandbox_id: int) -> int:
        sandbox = self._enricher.sandboxes.by_id.get(sandbox_id)
        if sandbox is None or not sandbox.born_ns:
            return 0
        return sandbox.born_ns + time.time_ns() - time.monotonic_ns()

    def _facts(self, record: Record) -> bytes:
        """What the sensor knows of a sandbox, for its evidence: the order, its last events and detections, and its
        flows with their bytes, since the kernel has none of the sockets any more that were destroyed."""
        self._log.flush()
        mark = b'"SandboxId":%d,' % record.order.sandbox_id
        events: list[msgspec.Raw] = []
        detections: list[msgspec.Raw] = []
        flows: list[msgspec.Raw] = []
        try:
            for line in latest_with(self._log.path, mark, FACTS_BYTES):
                if b'"kind":"detection"' in line[:64]:
                    if len(detections) < FACTS_DETECTIONS:
                        detections.append(msgspec.Raw(line))
                elif b'"category":"network_flow"' in line[:128]:
                    if len(flows) < FACTS_FLOWS:
                        flows.append(msgspec.Raw(line))
                elif len(events) < FACTS_EVENTS:
                    events.append(msgspec.Raw(line))
        except OSError:
            pass  # the log cannot be read: what the kernel shows is collected all the same
        sandbox = self._enricher.sandboxes.by_id.get(record.order.sandbox_id)
        known = (
            {} if sandbox is None else {"class": sandbox.class_, "runtime": sandbox.runtime, "labels": sandbox.labels}
        )
        # The standard library's, since the path is bytes: msgspec's has no room for what is no UTF-8.
        order = msgspec.Raw(json.dumps(msgspec.to_builtins(record.order)).encode())
        return msgspec.json.encode(
            {
                "order": order,
                "sandbox": known,
                "detections": detections[::-1],
                "flows": flows[::-1],
                "events": events[::-1],
            }
        )

    # What operations ask for.

    def _explain(self, sandbox: Sandbox, question: Mapping[str, str]) -> Mapping[str, Any]:
        ((kind, text),) = question.items()
        answer = explain(self._config(), sandbox.class_, _ASK[kind](text), file=self._file)
        held = self.quarantines.of(sandbox.id)
        if held is not None and held.deny:
            return {
                "class": sandbox.class_,
                "verdict": "refused",
                "why": f"the sandbox is in quarantine: {held.order.reason}",
                "where": f"pinfold quarantine describe {held.id}",
                "notes": (f"released, it would be {answer.verdict}: {answer.why}",),
            }
        return {
            "class": sandbox.class_,
            "verdict": answer.verdict,
            "why": answer.why,
            "where": answer.place(self._file or "the configuration"),
            "notes": answer.notes,
        }

    def get(self, sandbox_id: int) -> Mapping[str, str]:
        """Registered attributes."""
        sandbox = self._enricher.sandboxes.by_id.get(sandbox_id)
        return sandbox.attributes if sandbox is not None else {}

    def put(self, sandbox: Sandbox, attributes: Mapping[str, str]) -> None:
        try:
            self._enricher.sandboxes.set_attributes(sandbox.id, attributes)
        except OSError as error:
            raise ActError(f"the attributes cannot be kept: {error.strerror}") from error


def _ordered(asked: Asked) -> Order:
    return Order(**{name: getattr(asked, name) for name in asked.__struct_fields__})
