"""Programs that a class denies by their content: told, killed, and from then on the kernel's own to refuse."""

from __future__ import annotations

from collections.abc import Callable

from sensor.config import Config
from sensor.events.activity import AnyActivity, ProcessCreation, SandboxChange
from sensor.kernel import Kernel
from sensor.metrics import Metrics
from sensor.respond.disarm import Arming
from sensor.respond.hashes import Hashes
from sensor.respond.kill import Gone, Killer
from sensor.respond.nevertouch import Refusal
from sensor.respond.procfs import ticks
from sensor.respond.responder import start_ns
from sensor.respond.table import Identity


class Programs:
    """`tell(text, **fields)` writes a notice."""

    def __init__(  # noqa: PLR0917 - what it acts by
        self,
        config: Config,
        kernel: Kernel,
        killer: Killer,
        arming: Arming,
        metrics: Metrics,
        tell: Callable[..., None],
    ) -> None:
        self._kernel, self._killer, self._arming, self._metrics, self._tell = kernel, killer, arming, metrics, tell
        self._config = config
        self._lists: dict[str, frozenset[str]] = {}
        self.reload(config)
        self._hashes = Hashes(self._list, self._denied, self._lost)

    def reload(self, config: Config) -> None:
        self._config = config
        self._lists = {name: frozenset(each.denied_executables.sha256) for name, each in config.classes.items()}

    @property
    def busy(self) -> bool:
        return self._hashes.busy

    def observe(self, activity: AnyActivity | SandboxChange) -> None:
        if type(activity) is ProcessCreation:
            self._hashes.observe(activity)

    def tick(self, now_ns: int) -> None:
        self._hashes.poll(now_ns)

    def close(self) -> None:
        self._hashes.close()

    def _list(self, class_: str) -> frozenset[str]:
        found = self._lists.get(class_)
        return found if found is not None else self._lists.get("default", frozenset())

    def _lost(self, reason: str) -> None:
        self._metrics.count("pinfold_programs_unread_total", (reason,))

    def _denied(self, execed: ProcessCreation, digest: str, changed: int) -> None:
        if changed:
            self._kernel.deny_image(execed.SandboxClass, execed.ImageDevice, execed.ImageInode, changed, digest)
        outcome = self._kill(execed)
        self._tell(
            f"a program that the class {execed.SandboxClass} denies by its content ran, and {outcome}",
            SandboxId=execed.SandboxId,
            ProcessId=execed.ProcessId,
            Image=execed.Image,
            Sha256=digest,
        )

    def _kill(self, execed: ProcessCreation) -> str:
        settings = self._config.classes.get(execed.SandboxClass) or self._config.classes["default"]
        if settings.mode != "enforce" or self._arming.disarmed():
            return "would have been killed"
        root = Identity(execed.ProcessId, ticks(start_ns(execed.ProcessGuid)))
        try:
            tree = self._killer.start(root, execed.SandboxId)
            if isinstance(tree, Refusal):
                return f"is not killed: {tree.reason}"
            self._killer.resume(tree)
        except Gone:
            return "had ended"
        except OSError as error:
            return f"could not be killed: {error.strerror}"
        return "was killed"
