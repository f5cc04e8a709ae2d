"""Every change that somebody asked for, as a line of the log: who, what, why, and what came of it."""

from __future__ import annotations

import time

from sensor.control.admissions import Bucket
from sensor.control.caller import Caller, printable
from sensor.enrich.sandboxes.registry import Sandbox
from sensor.events.detection import Audit
from sensor.export.log import EventLog

REFUSED_PER_S, REFUSED_AT_ONCE = 5.0, 20.0  # lines of refusals; the others are counted


class Journal:
    """Each line is written before its answer is given; an intent before the act."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._bucket = Bucket(REFUSED_PER_S, REFUSED_AT_ONCE)
        self._untold = 0

    def tell(
        self,
        operation: str,
        target: str,
        caller: Caller,
        reason: str,
        *,
        outcome: str,
        detail: str = "",
        sandbox: Sandbox | None = None,
    ) -> None:
        if outcome == "refused" and not self._bucket.take():
            self._untold += 1
            return
        if self._untold:
            detail = f"{detail}; {self._untold} refusals before it were not written".removeprefix("; ")
            self._untold = 0
        of = (sandbox.id, printable(sandbox.name)) if sandbox is not None else None
        self._log.add_audit(
            Audit(
                time.time_ns(), operation, printable(target, 512), caller.uid, caller.tgid, caller.executable, reason,
                outcome, printable(detail, 512), of,
            )
        )  # fmt: skip
        self._log.flush()
