"""Once a second: links, pins and maps verified and repaired; who traces or stopped us; which sandboxes could."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from itertools import islice

from sensor.bpf import libbpf
from sensor.config import Config
from sensor.enrich.enricher import Enricher
from sensor.enrich.processes import Process
from sensor.errors import RefusedError
from sensor.events.activity import AnyActivity, SandboxChange, SensorAccess
from sensor.guard.maps import SANDBOXES_AT_ONCE, Maps
from sensor.guard.pins import Pins
from sensor.guard.programs import Programs
from sensor.guard.tampering import Told
from sensor.guard.watchers import Privileges, status
from sensor.kernel import Kernel
from sensor.metrics import Metrics
from sensor.network import Network
from sensor.respond import procfs
from sensor.respond.containment import Containment
from sensor.respond.disarm import Arming
from sensor.respond.kill import Gone, Killer
from sensor.respond.nevertouch import NeverTouch
from sensor.respond.table import Host, identity

LATE_NS = 5_000_000_000  # without a look for longer: the core was stopped, or starved
NAMES = ("core", "api", "launcher")


class Guard:
    """`notices`: `(text, **fields)` each, one writes into the log and says it, the other only writes. `seen` is to be
    set: it has a detection made of what no record told. To be made before the configuration is written, which the
    guard follows."""

    def __init__(  # noqa: PLR0917 - what it watches, and by what it acts
        self,
        config: Config,
        kernel: Kernel,
        enricher: Enricher,
        host: Host,
        arming: Arming,
        metrics: Metrics,
        notices: tuple[Callable[..., None], Callable[..., None]],
        network: Network,
    ) -> None:
        self._kernel = kernel
        self._enricher = enricher
        self._host = host
        self._arming = arming
        self._metrics = metrics
        self._config = config
        tell, self._log = notices
        self.seen: Callable[[SensorAccess], None] = lambda _: None
        self._told = Told(metrics, tell)
        self._killer = Killer(host, NeverTouch(host))
        self.containment = Containment(host, self._enforcing, arming, metrics, tell, network.sweep)
        self.programs = Programs(config, kernel, self._killer, arming, metrics, tell)
        self._maps = Maps(kernel.generation, kernel.handle, kernel.tables, arming.disarmed)
        self._pins = Pins(kernel.generation, kernel.handle)
        self.privileges = Privileges()
        self._guarded: dict[int, str] = {}
        self._traced: set[tuple[int, int, int]] = set()
        self._turn = 0
        self._last_ns = 0
        self._stood_down = False

    def begin(self) -> None:
        """Once this generation acts and what was there is known."""
        self._write_guarded()
        self._maps.begin()
        self._pins.verify(self._folders())
        self._last_ns = time.monotonic_ns()

    def reloaded(self, config: Config) -> None:
        """After it was written and attached."""
        self._config = config
        self._maps.reloaded()
        self.programs.reload(config)

    def reclassified(self, sandbox_id: int) -> None:
        """After the map was written: labels gave it another class."""
        self._maps.forget_sandbox(sandbox_id)

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        self.privileges.observe(activity)
        self.programs.observe(activity)
        if type(activity) is SandboxChange and activity.change == "ended":
            self._maps.forget_sandbox(activity.SandboxId)

    def each_second(self, now_ns: int) -> None:
        """A few milliseconds at most, whatever there is to look at."""
        began = time.thread_time()
        self._late(now_ns)
        self._write_guarded()
        if not self._stood_down:
            self._verify()
        self._trace()
        for sandbox_id in self.privileges.look():
            self._tamperable(sandbox_id)
        self._metrics.gauge("pinfold_sandboxes_tamperable", (), len(self.privileges.tamperable))
        self._metrics.count("pinfold_guard_rounds_total")
        self._metrics.count("pinfold_guard_seconds_total", (), time.thread_time() - began)
        self._last_ns = time.monotonic_ns()

    @property
    def busy(self) -> bool:
        return self.containment.pending or self.programs.busy

    def tick(self, now_ns: int) -> None:
        """Often while `busy`."""
        self.containment.settle()
        self.programs.tick(now_ns)

    def close(self) -> None:
        self.programs.close()
        self._maps.close()
        self._pins.close()

    def _enforcing(self, class_: str) -> bool:
        return (self._config.classes.get(class_) or self._config.classes["default"]).mode == "enforce"

    # What is in the kernel.

    def _verify(self) -> None:
        if self._superseded():
            return
        folders = self._folders()
        for found in self._pins.verify(folders):
            self._told.tampered(found.what, found.text, found.repaired)
        for found, difference in self._maps.verify(folders, self._some_sandboxes()):
            expected, there = difference.digests
            self._told.tampered(
                found.what, found.text, found.repaired, key=difference.key.hex(), expected=expected, found=there
            )

    def _superseded(self) -> bool:
        """A newer generation acts: another run of the sensor has taken over, which is the one that guards now."""
        active = self._kernel.handle.read().active_generation
        if active <= self._kernel.generation.number:
            return False
        if not any(self._kernel.generation.folder.parent.glob(f"gen-{active:x}-*")):
            return False
        self._stood_down = True
        self._told.critical("another generation of the probes acts: this run of the sensor guards nothing any more")
        return True

    def _folders(self) -> dict[int, str]:
        """Cgroups that hold the programs, as the configuration has them, as far as they are there."""
        found = {}
        for path in self._kernel.attached_folders():
            with contextlib.suppress(OSError):
                found[os.stat(path).st_ino] = path
        return found

    def _some_sandboxes(self) -> list[tuple[int, str]]:
        """In turn, all where they are few."""
        known = self._enricher.sandboxes.by_id
        if self._turn >= len(known):
            self._turn = 0
        chosen = list(islice(known.values(), self._turn, self._turn + SANDBOXES_AT_ONCE))
        self._turn += SANDBOXES_AT_ONCE
        return [(each.id, f"{self._kernel.mount}/{each.path}") for each in chosen if not each.ended_ns]

    # Our own processes.

    def _write_guarded(self) -> None:
        """The api may have been started anew. PID 1 is everybody's, and no secret of ours."""
        own = dict(zip((os.getpid(), *reversed(tuple(self._host.own_pids()))), NAMES, strict=False))
        own = {tgid: name for tgid, name in own.items() if tgid > 1}
        if own == self._guarded:
            return
        descriptor = self._kernel.generation.maps["guarded"]
        for tgid in self._guarded.keys() - own.keys():
            libbpf.delete(descriptor, tgid.to_bytes(4, "little"))
        for key in libbpf.keys(descriptor, 4, 64) if not self._guarded else ():
            if int.from_bytes(key, "little") not in own:
                libbpf.delete(descriptor, key)  # an earlier run's
        for tgid in own:
            with contextlib.suppress(RefusedError):
                libbpf.update(descriptor, tgid.to_bytes(4, "little"), b"\1\0\0\0")
        self._guarded = self._enricher.escapes.guarded = own

    def _late(self, now_ns: int) -> None:
        late = now_ns - self._last_ns
        if self._last_ns and late > LATE_NS:
            self._metrics.count("pinfold_tampering_total", ("stopped",))
            self._told.critical(f"the core did not run for {late / 1e9:.1f} s: it was stopped by a signal, or starved")

    def _trace(self) -> None:
        for tgid, name in self._guarded.items():
            told = status(tgid) if name != "launcher" else None
            if told is not None and told.tracer:
                self._tracer(told.tracer, tgid, name)

    def _tracer(self, tid: int, target: int, name: str) -> None:
        """TracerPid is a thread's number in our pid namespace; 0 for one that we cannot see."""
        tracer = self._enricher.processes.get(procfs.thread_group(tid) or tid)
        if tracer is None:
            self._told.critical(f"the {name} is traced by a process outside every sandbox", ProcessId=tid)
            return
        key = (tracer.tgid, tracer.start_ns, target)
        if key not in self._traced:
            self._traced = {*list(self._traced)[-64:], key}
            self._metrics.count("pinfold_tampering_total", ("tracer",))
            self.seen(self._enricher.escapes.traced(tracer, target, (0, time.time_ns())))
        outcome = self._kill(tracer)
        self._told.critical(
            f"the {name} is traced by a process of a sandbox, which {outcome}",
            ProcessId=tracer.tgid,
            SandboxId=tracer.sandbox_id,
        )

    def _kill(self, tracer: Process) -> str:
        sandbox = self._enricher.sandboxes.get(tracer.sandbox_id)
        if not self._enforcing(sandbox.class_) or self._arming.disarmed():
            return "is not killed: nothing is enforced"
        try:
            refusal = self._killer.alone(identity(tracer), tracer.sandbox_id)
        except Gone:
            return "is gone"
        except OSError as error:
            return f"could not be killed: {error.strerror}"
        return "was killed" if refusal is None else f"is not killed: {refusal.reason}"

    def _tamperable(self, sandbox_id: int) -> None:
        sandbox = self._enricher.sandboxes.get(sandbox_id)
        self._log(
            f"the sandbox {sandbox.name!a} runs with rights over the host's BPF objects, and is tamperable: "
            "what it does to the sensor is noticed and repaired, not prevented",
            SandboxId=sandbox_id,
        )
