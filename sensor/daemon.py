"""The core: wires the stages together, and runs the one loop that reads the ring.

`python -m sensor.daemon [--config FILE]`. SIGTERM and SIGINT end it and leave the probes pinned, so that
what they enforce holds and events wait in the ring; SIGHUP reads rules and policy again.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import Any, NoReturn

from sensor import process
from sensor.bpf.objects import Generation
from sensor.bpf.ring import Ring
from sensor.bpf.selftest import SelfTest
from sensor.config import Config, complete, load, rule_paths
from sensor.control.listeners import Listener, listen_when_free, protected_ports
from sensor.correlating.state import Memory
from sensor.enrich.enricher import Enricher
from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from sensor.errors import HostError, PinfoldError, RefusedError
from sensor.events.detection import Response
from sensor.events.layouts import ABI, Cgroup
from sensor.export.log import EventLog
from sensor.files.files import Files
from sensor.guard.guard import Guard
from sensor.hand import Hand
from sensor.kernel import Kernel, ring_of
from sensor.metrics import Metrics
from sensor.network import Network
from sensor.notify import Notifier
from sensor.operations.front import Front
from sensor.pipeline import Pipeline
from sensor.recording.recorder import Recorder
from sensor.reload import Reload
from sensor.reports import Reports
from sensor.respond.disarm import Arming
from sensor.respond.policy import Policy
from sensor.respond.responder import Responder
from sensor.respond.table import Host
from sensor.rules.loading import Loading
from sensor.say import say

BATCH = 256  # records between two advances of the ring: what a crash makes us read again
DRAIN_NS = 50_000_000  # then other duties get their turn
# After a record the loop looks again each millisecond, for longer than the probes take it to be awake
# (PF_AWAKE_NS): they then need not wake it, which would cost more than the record.
AWAKE_NS = 30_000_000
BUSY_S, IDLE_S = 0.001, 0.1
TICK_NS = 1_000_000_000
PULSE_NS = 50_000_000


class Daemon:
    def __init__(self, config_file: str | None) -> None:
        self._file = config_file
        self._config = load(config_file) if config_file else complete(Config())
        self._notifier = Notifier()
        self._metrics = Metrics()
        self._stopping = False
        self._next_tick = 0
        self._next_pulse = 0

    # Starting.

    def start(self) -> None:
        """Everything up to READY. Raises PinfoldError."""
        if os.geteuid() != 0:
            raise HostError("pinfold needs root: run it with sudo")
        config = self._config
        process.use_one_arena()
        process.stay_on(config.cpus)
        mount = find_cgroup2_mount()
        for folder in (config.paths.state, config.paths.runtime, config.paths.log, config.paths.cache):
            os.makedirs(folder, mode=0o750, exist_ok=True)
        rules = Loading(rule_paths(config), config.paths.cache, config.rules.keep_going, config.rules.placeholders)
        listeners = listen_when_free(config)
        self._kernel = Kernel(config, mount)
        # Not before: its imports would take the compilers' time. Whoever asks already waits at the listener.
        front = Front(config, self._metrics, say)
        self._link = front.spawn(listeners)
        self._arming = Arming(config.paths.state)
        log = EventLog(config, self._count_lost)
        recovery = log.recover()
        enricher = Enricher(config, mount)
        enricher.sandboxes.reclassified = self._reclassified
        host = Host(enricher.processes, self._sandbox_path, self._own_pids, mount, config.paths.state)
        responder = Responder(Policy(config), host, self._journal, self._metrics, self._arming, told=self._say)
        ruleset = rules.result()
        self._kernel.want_calls(ruleset.calls)
        self._network = Network(
            config, self._kernel.tables, enricher, self._metrics, self._folder, self._kernel.is_gpu, log.add_notice
        )
        self._pipeline = Pipeline(
            enricher, rules.engine(), log, responder, self._metrics, recovery, self._watched, self._network
        )
        self._files = self._pipeline.files = Files(config.files, enricher, self._metrics, log.add_notice, ruleset)
        self._enricher, self._log, self._responder = enricher, log, responder
        notices = self._say, log.add_notice
        self._guard = Guard(config, self._kernel, enricher, host, self._arming, self._metrics, notices, self._network)
        self._pipeline.protect(self._guard)
        self._reports = Reports(self._kernel, enricher, self._pipeline, self._metrics, config.limits.sandboxes)
        self._recorder = Recorder(
            config, enricher, self._pipeline, self._network, lambda: self._kernel.generation.number, self._say
        )
        self._reload = Reload(
            self._file, config, self._kernel, enricher, self._pipeline, self._network, self._guard,
            responder, self._reports, log,
            self._metrics, self._notifier, self._reloaded,
        )  # fmt: skip
        self._hand = Hand(
            front, lambda: self._reload.config, self._file, self._kernel, enricher, self._pipeline, responder,
            self._reports, log, self._metrics, self._arming, host, self._say, self._reload.ask, self._recorder,
        )  # fmt: skip
        self._pipeline.close_intents(recovery)
        self._pipeline.fold(config.rules.fold_seconds, config.rules.most_per_minute)
        self._pipeline.correlating.remember(Memory(config.paths.state), recovery.last_event, log)
        for path in responder.recover():
            self._say(f"{path!a} was left frozen by a kill that a crash cut short, and is thawed", cgroup=path)
        self._begin(listeners)
        self._kernel.leave_out(ruleset.pushdown)
        self._reports.started()
        self._reports.rules_loaded(len(ruleset.refused))
        self._tick()
        if all(pattern.path == f"{config.instance}/*" for pattern in config.sandboxes):
            file = self._file or "the configuration"
            say(f"only what `pinfold sandbox run` starts is watched: {file} names no cgroups, see its key sandboxes")
        del rules, ruleset  # megabytes that only the engine was made of
        process.settle_down()

    def _reloaded(self, config: Config) -> None:
        self._link.admissions.control = config.control
        self._recorder.reloaded(config)
        self._hand.reloaded(config)

    def _reclassified(self, sandbox_id: int, name: str) -> None:
        try:
            self._kernel.classify(sandbox_id, name)
        except RefusedError as error:
            self._say(f"the kernel does not take the class {name} of a sandbox: {error}", SandboxId=sandbox_id)
        self._guard.reclassified(sandbox_id)

    def _own_pids(self) -> tuple[int, ...]:
        """The api, and whatever started us: the CLI with its live view, or systemd."""
        return os.getppid(), self._link.pid

    def _journal(self, response: Response) -> None:
        """The pipeline journals, since its order of lines is what makes a crash harmless; it is made later."""
        self._pipeline.journal(response)

    def _begin(self, listeners: list[Listener]) -> None:
        """Fill the maps, attach, switch over, look at what is there already, and test what the probes see."""
        kernel, config = self._kernel, self._config
        ports = protected_ports(listeners)
        kernel.configure(config)
        kernel.seed_from_older()
        kernel.attach()
        kernel.activate(ports[0] if ports else 0, armed=not self._arming.disarmed())
        found = self._enricher.discover(*_id_of_found())
        for sandbox in self._enricher.sandboxes.live():
            kernel.classify(sandbox.id, sandbox.class_)
        kernel.forget_executables()
        existing = self._enricher.scan(self._enricher.sandboxes.live(), *_id_of_found())
        kernel.add_processes(existing.processes)
        self._self_test()
        self._guard.begin()
        self._hand.begin()
        # Of what an older generation of the probes recorded, all was told when it happened.
        first = kernel.fresh and not kernel.older
        for older in list(kernel.older):
            if older.layout == ABI:
                self._drain_older(older)
            kernel.retire(older)
        if first:
            for activity in (*found, *existing.activities):
                self._pipeline.tell_beside(activity)
            self._log.flush()

    def _drain_older(self, older: Generation) -> None:
        ring = ring_of(older)
        while self._drain(ring, older.number):
            pass
        ring.close()

    def _self_test(self) -> None:
        """A mismatch means that every record may be wrong: nothing is left attached."""
        test = SelfTest(self._kernel.mount, self._config.instance, "connect_unix" in self._kernel.features)
        self._pipeline.aside_id = test.make()
        self._pipeline.aside = test.records
        try:
            test.run(self._drain)
        except PinfoldError:
            self._kernel.give_up()
            raise
        finally:
            self._pipeline.aside = []

    # The loop.

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        wake, signalled = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(signalled, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)
        poller = select.epoll()
        for descriptor in (wake, self._link.fileno(), self._kernel.ring.descriptor, *self._files.descriptors):
            poller.register(descriptor, select.EPOLLIN)
        self._notifier.send("READY=1", f"STATUS={self._reports.summary()}")
        awake_until = time.monotonic_ns() + AWAKE_NS
        while not self._stopping:
            for descriptor, _ in poller.poll(self._patience(awake_until)):
                if descriptor == wake:
                    os.read(wake, 4096)
                elif descriptor == self._link.fileno():
                    self._link.on_readable()
            self._reports.before_drain(self._kernel.ring.used)
            self._files.collect()
            if self._drain():
                awake_until = time.monotonic_ns() + AWAKE_NS
            self._take_files()
            if self._responder.pending:
                self._responder.settle()
                self._log.flush()
            if self._hand.busy:
                self._hand.tick(time.monotonic_ns())
                self._log.flush()
            self._notifier.feed()
            if self._pipeline.busy and time.monotonic_ns() >= self._next_pulse:
                self._pulse()
            if time.monotonic_ns() >= self._next_tick:
                self._tick()
            if self._reload.busy:
                self._reload.go_on()
        self._stop()

    def _take_files(self) -> None:
        if self._files.busy:
            self._pipeline.take_files()
            self._files.tick(time.monotonic_ns())
            self._log.flush()

    def _patience(self, awake_until: int) -> float:
        """How long to wait, in seconds. A record that came without a wake-up is not waited over."""
        if self._kernel.ring.used:
            return 0
        if self._hand.busy or self._reload.busy or self._files.busy:
            return BUSY_S
        if self._pipeline.busy and time.monotonic_ns() >= awake_until:
            return PULSE_NS / 1e9
        return BUSY_S if time.monotonic_ns() < awake_until else IDLE_S

    def _signalled(self, number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            self._reload.ask()
        else:
            self._stopping = True

    def _drain(self, ring: Ring | None = None, number: int = 0) -> int:
        """Reads what is there, for a while; the number of records read. Without arguments our own ring."""
        if ring is None:
            ring, number = self._kernel.ring, self._kernel.generation.number
        drain = self._recorder.drain if self._recorder.on else self._pipeline.drain
        until = time.monotonic_ns() + DRAIN_NS
        total = 0
        while True:
            count, following = drain(ring, BATCH, number)
            if not count:
                return total
            self._log.flush()
            ring.advance(following)
            total += count
            if time.monotonic_ns() >= until:
                return total

    def _pulse(self) -> None:
        """What detectors, held first bytes and children of ours wait for."""
        now = time.monotonic_ns()
        self._next_pulse = now + PULSE_NS
        (self._recorder if self._recorder.on else self._pipeline).tick(now)
        self._log.flush()

    def _tick(self) -> None:
        """Once a second: what nobody waits for."""
        self._next_tick = time.monotonic_ns() + TICK_NS
        self._pulse()
        self._network.each_second(time.monotonic_ns())
        self._files.each_second(time.monotonic_ns())
        kernel = self._kernel
        self._enricher.tick()
        kernel.refresh_devices()
        kernel.sweep()
        self._link.tick()
        self._guard.each_second(time.monotonic_ns())
        armed = not self._arming.disarmed()
        kernel.arm(armed)
        self._reports.each_second(armed)
        self._hand.each_second(time.monotonic_ns())

    def _count_lost(self, stage: str, reason: str, lines: int) -> None:
        full = reason in {"ENOSPC", "EDQUOT"}
        self._metrics.count("pinfold_events_lost_total", (stage, "full" if full else "error"), lines)

    def _watched(self, record: Cgroup) -> None:
        gap = self._kernel.watched(record)
        # Sandboxes that were made in it before it was watched are found, not born.
        found = self._enricher.discover(*_id_of_found())
        if found:
            wanted = {change.SandboxId for change in found}
            live = [sandbox for sandbox in self._enricher.sandboxes.live() if sandbox.id in wanted]
            existing = self._enricher.scan(live, *_id_of_found())
            self._kernel.add_processes(existing.processes)
            self._recorder.found()
            for activity in (*found, *existing.activities):
                self._pipeline.tell_beside(activity)
        if gap is not None:
            self._metrics.count("pinfold_watch_gaps_total")
            text = (
                f"{gap.folder!a}, a parent of sandboxes, was made again and is attached again after a moment unwatched"
            )
            self._say(text, cgroup=gap.folder)

    def _say(self, text: str, **fields: Any) -> None:
        """To the operator and into the log."""
        self._log.add_notice(text, **fields)
        say(text)

    # What the api asks.

    def _sandbox_path(self, sandbox_id: int) -> str | None:
        sandbox = self._enricher.sandboxes.by_id.get(sandbox_id)
        return sandbox.path if sandbox is not None and not sandbox.ended_ns else None

    def _folder(self, sandbox_id: int) -> str | None:
        path = self._sandbox_path(sandbox_id)
        return None if path is None else f"{self._kernel.mount}/{path}"

    # Ending.

    def _stop(self) -> None:
        self._notifier.send("STOPPING=1")
        self._drain()
        self._pipeline.end()
        self._recorder.end("the sensor was stopped")
        self._link.close()
        self._network.close()
        self._files.close()
        self._guard.close()
        self._hand.close()
        self._log.close()
        self._pipeline.correlating.close()
        say("stopped; the probes stay pinned, what they enforce holds and events wait for the next start")


def _id_of_found() -> tuple[int, int]:
    """What is found has no place in a ring. Generation 0 is no ring's, and the time tells one start's
    findings from another's."""
    return 0, time.time_ns()


def main() -> NoReturn:
    arguments = sys.argv[1:]
    if arguments and (arguments[0] != "--config" or len(arguments) != 2):
        say("usage: python -m sensor.daemon [--config FILE]")
        sys.exit(2)
    try:
        daemon = Daemon(arguments[1] if arguments else None)
        daemon.start()
        daemon.run()
    except PinfoldError as error:
        for line in str(error).splitlines():
            say(line)
        sys.exit(error.exit_status)
    except OSError as error:
        say(f"{error.filename or 'the sensor'!a}: {error.strerror or error}")
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    main()
