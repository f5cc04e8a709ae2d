"""Rules, policy and patterns read again: compiled aside while events are read on, then swapped at once."""

from __future__ import annotations

import time
from collections.abc import Callable

from sensor import process
from sensor.config import Config, complete, load, refuse_fixed, rule_paths
from sensor.enrich.enricher import Enricher
from sensor.errors import PinfoldError
from sensor.export.log import EventLog
from sensor.guard.guard import Guard
from sensor.kernel import Kernel
from sensor.metrics import Metrics
from sensor.network import Network
from sensor.notify import Notifier
from sensor.pipeline import Pipeline
from sensor.reports import Reports
from sensor.respond.policy import Policy
from sensor.respond.responder import Responder
from sensor.rules.loading import Loading
from sensor.say import say


class Reload:
    """`config` is what is in force. `go_on` is to be called often while `busy`; `done` is told of a new one."""

    def __init__(  # noqa: PLR0917 - what it swaps
        self,
        file: str | None,
        config: Config,
        kernel: Kernel,
        enricher: Enricher,
        pipeline: Pipeline,
        network: Network,
        guard: Guard,
        responder: Responder,
        reports: Reports,
        log: EventLog,
        metrics: Metrics,
        notifier: Notifier,
        done: Callable[[Config], None],
    ) -> None:
        self.config = config
        self._file = file
        self._kernel, self._enricher, self._pipeline = kernel, enricher, pipeline
        self._network, self._responder, self._reports = network, responder, reports
        self._guard = guard
        self._log, self._metrics, self._notifier = log, metrics, notifier
        self._done = done
        self._asked = False
        self._wanted: tuple[Config, Loading] | None = None

    @property
    def busy(self) -> bool:
        return self._asked or self._wanted is not None

    def ask(self) -> None:
        """Safe in a signal's handler."""
        self._asked = True

    def go_on(self) -> None:
        if self._asked:
            self._asked = False
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            try:
                config = load(self._file) if self._file else complete(Config())
                refuse_fixed(self.config, config)
            except PinfoldError as error:
                self._ended(error)
                return
            said = config.rules
            loading = Loading(rule_paths(config), config.paths.cache, said.keep_going, said.placeholders)
            self._wanted = (config, loading)
        if self._wanted is not None and self._wanted[1].done:
            config, rules = self._wanted
            self._wanted = None
            self._swap(config, rules)
            del rules
            process.give_back_memory()

    def _swap(self, config: Config, rules: Loading) -> None:
        sandboxes = self._enricher.sandboxes
        try:
            ruleset = rules.result()
            engine = rules.engine()  # made aside, too
            self._kernel.configure(config, sandboxes.classes_under(config))
            self._kernel.attach()
            self._kernel.want_calls(ruleset.calls)
        except (PinfoldError, OSError) as error:
            # What was half written is written back.
            self._kernel.configure(self.config, sandboxes.classes_under(self.config))
            self._ended(error)
            return
        self.config = config
        self._kernel.apply_flow_settings()
        self._guard.reloaded(config)
        self._network.reload(config)
        self._kernel.leave_out(ruleset.pushdown)
        engine.inherit(self._pipeline.engine)
        self._pipeline.use(engine)
        self._pipeline.fold(config.rules.fold_seconds, config.rules.most_per_minute)
        if self._pipeline.files is not None:
            self._pipeline.files.reload(config.files, ruleset)
        self._responder.policy = Policy(config)
        sandboxes.reconfigure(config)
        self._reports.rules_loaded(len(ruleset.refused))
        self._done(config)
        self._ended(None)

    def _ended(self, error: BaseException | None) -> None:
        self._metrics.count("pinfold_reloads_total", ("done" if error is None else "failed",))
        if error is not None:
            say(f"reload refused, what was in force stays in force: {error}")
        self._log.add_notice("reload refused" if error else "reloaded", reason=str(error or ""))
        self._log.flush()
        self._notifier.send("READY=1", f"STATUS={self._reports.summary()}")
