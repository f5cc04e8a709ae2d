"""The sandboxes of this host, by cgroup id: found at start, born and ended as the kernel tells.

A nested cgroup is its outermost sandbox's business, so that a container in a container cannot hide
behind a name of its own. An ended sandbox keeps its name for a while: repeats and exits come later.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping

from msgspec import Struct

from sensor.config import Config, SandboxClass
from sensor.configdevices import granted_classes, grants_gpu
from sensor.enrich.gpus import Number, numbers_now
from sensor.enrich.sandboxes import containerd, crio, docker, kubernetes, pinfold, podman, systemd
from sensor.enrich.sandboxes.assign import assigned
from sensor.enrich.sandboxes.attributes import AttributeStore, checked
from sensor.enrich.sandboxes.cgroupfs import CgroupPaths
from sensor.enrich.sandboxes.named import HostFiles, Named, guessed
from sensor.enrich.sandboxes.patterns import compile_pattern, expand, outermost, split
from sensor.errors import NotFoundError

ENDED_KEPT = 256
STRANGERS_KEPT = 256
RETRIES_MAX = 600  # a second apart: a pod's first container may wait long for its image
RETRY_AT_ONCE = 4
PATH_MAX = 4096

_RUNTIMES = (docker, containerd, crio, podman, systemd)


class Sandbox(Struct, gc=False, eq=False):
    """`id` is the cgroup's; `path` below the cgroup2 mount; times CLOCK_MONOTONIC, 0 for unknown."""

    id: int
    path: str
    class_: str
    name: str
    runtime: str
    labels: dict[str, str]
    born_ns: int
    gpu_granted: bool
    granted: tuple[str, ...]  # device classes
    certain: bool  # the name is the runtime's, not made from the path
    pattern_class: str  # what its path alone gives it; the kernel gives it that at its birth
    attributes: dict[str, str]  # a launcher's
    single: frozenset[Number] = frozenset()  # device numbers beside the classes
    ended_ns: int = 0
    retries: int = 0


class Registry:
    """`by_id` also has ended ones; `get` answers for any id.

    `reclassified(sandbox_id, class)` is told of every sandbox whose class is not, or no more, what the kernel has: the
    pattern's at its birth and after a `reconfigure`, the one told last otherwise."""

    def __init__(
        self, config: Config, mount: str, files: HostFiles | None = None, store: AttributeStore | None = None
    ) -> None:
        self.reclassified: Callable[[int, str], None] = lambda _sandbox_id, _class: None
        self._store = store
        self.counters: Counter[str] = Counter()
        self.by_id: dict[int, Sandbox] = {}
        self._ended: dict[int, None] = {}
        self._strangers: dict[int, Sandbox] = {}
        self._unnamed: dict[int, None] = {}
        self._forgotten: list[int] = []
        self._config = config
        self._mount = mount.rstrip("/")
        self._files = files or HostFiles()
        self._files.counters = self.counters
        self._paths = CgroupPaths(mount)
        self._patterns = [compile_pattern(pattern) for pattern in config.sandboxes]
        self._singles = numbers_now(config)

    def forgetful(self) -> None:
        """From here on attributes are kept in memory alone: a replay leaves nothing behind."""
        self._store = None

    def __len__(self) -> int:
        return len(self.by_id) - len(self._ended)

    def live(self) -> list[Sandbox]:
        return [sandbox for sandbox in self.by_id.values() if not sandbox.ended_ns]

    def get(self, sandbox_id: int) -> Sandbox:
        """The sandbox; for an id never heard of, what the hierarchy says now, or one named by its id."""
        return self.by_id.get(sandbox_id) or self._strangers.get(sandbox_id) or self._stranger(sandbox_id)

    def outermost(self, path: str) -> str | None:
        """The path of the sandbox that a cgroup is or lies in, if any."""
        match = outermost(self._patterns, path)
        return match[0] if match else None

    def scan(self) -> list[Sandbox]:
        """Those that exist and are not known yet."""
        found = []
        for pattern in self._patterns:
            for path in expand(self._mount, pattern):
                try:
                    cgroup_id = os.stat(f"{self._mount}/{path}").st_ino
                except OSError:
                    continue
                if cgroup_id not in self.by_id and self.outermost(path) == path:
                    sandbox = self._add(cgroup_id, path, 0)
                    if sandbox is not None:
                        found.append(sandbox)
        if self._store is not None:
            self._store.prune(self.by_id)
        return found

    def born(self, cgroup_id: int, path: str, time_ns: int) -> Sandbox | None:
        """A sandbox whose birth the kernel told; None where it was known, or is nobody's.

        A record holds a bounded piece of the path, shorter than a pod's often is: the hierarchy is
        asked for the whole, and the piece serves where the cgroup is gone already."""
        known = self.by_id.get(cgroup_id)
        if known is not None and not known.ended_ns:
            return None
        return self._add(cgroup_id, self.path_of(cgroup_id) or path, time_ns)

    def reconfigure(self, config: Config) -> None:
        """New patterns and classes. A sandbox stays one while it lives; its class and grants may change."""
        self._config = config
        self._patterns = [compile_pattern(pattern) for pattern in config.sandboxes]
        self._singles = numbers_now(config)
        self._strangers.clear()
        for sandbox in self.by_id.values():
            match = outermost(self._patterns, sandbox.path)
            matched = match is not None and match[0] == sandbox.path
            if match is not None and matched:
                sandbox.pattern_class = match[1]
            sandbox.class_ = sandbox.pattern_class
            if not matched and not sandbox.ended_ns:
                self.reclassified(sandbox.id, sandbox.class_)
            self._classify(sandbox)
            self._grant(sandbox)

    def classes_under(self, config: Config) -> dict[int, str]:
        """The class that each living sandbox would have: for whoever writes the kernel's maps before this is
        reconfigured, so that no sandbox is of its pattern's class in between."""
        patterns = [compile_pattern(pattern) for pattern in config.sandboxes]
        classes = {}
        for sandbox in self.live():
            match = outermost(patterns, sandbox.path)
            by_path = match[1] if match is not None and match[0] == sandbox.path else sandbox.pattern_class
            classes[sandbox.id] = assigned(config.assign, sandbox) or by_path
        return classes

    def set_attributes(self, sandbox_id: int, attributes: Mapping[str, str]) -> Sandbox:
        """In the place of those that it had.

        :raises NotFoundError: there is no such living sandbox.
        :raises UsageError: they are too many, too long, or unprintable.
        :raises OSError: they cannot be kept, and nothing has changed.
        """
        sandbox = self.by_id.get(sandbox_id)
        if sandbox is None or sandbox.ended_ns:
            raise NotFoundError(f"no living sandbox has the id {sandbox_id}")
        wanted = checked(attributes)
        if self._store is not None:
            self._store.put(sandbox_id, wanted)
        sandbox.attributes = wanted
        self._classify(sandbox)
        return sandbox

    def ended(self, cgroup_id: int, time_ns: int) -> Sandbox | None:
        sandbox = self.by_id.get(cgroup_id)
        if sandbox is None or sandbox.ended_ns:
            return None
        sandbox.ended_ns = time_ns or 1
        if self._store is not None:
            self._store.drop(cgroup_id)
        self._unnamed.pop(cgroup_id, None)
        self._ended[cgroup_id] = None
        if len(self._ended) > ENDED_KEPT:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            del self.by_id[oldest]
            self._forgotten.append(oldest)
        return sandbox

    def forgotten(self) -> list[int]:
        """Ids of ended sandboxes dropped since the last call."""
        dropped, self._forgotten = self._forgotten, []
        return dropped

    def retry_names(self) -> None:
        """Ask again for a few names that were not to be had at birth; cheap where there are none."""
        for cgroup_id in list(self._unnamed)[:RETRY_AT_ONCE]:
            del self._unnamed[cgroup_id]  # and again at the end, so that each has its turn
            sandbox = self.by_id.get(cgroup_id)
            if sandbox is None or sandbox.ended_ns:
                continue
            sandbox.retries += 1
            self._take_name(sandbox, self.name_of(sandbox.path))
            self._classify(sandbox)
            if not sandbox.certain and sandbox.retries < RETRIES_MAX:
                self._unnamed[cgroup_id] = None

    def _add(self, cgroup_id: int, path: str, time_ns: int) -> Sandbox | None:
        path = path.strip("/")[:PATH_MAX]
        match = outermost(self._patterns, path)
        if match is not None and match[0] != path:
            self.counters["nested_births"] += 1
            return None
        if match is None:
            self.counters["births_without_pattern"] += 1
        self._strangers.pop(cgroup_id, None)
        self._ended.pop(cgroup_id, None)
        sandbox = self._make(cgroup_id, path, match[1] if match else "default", time_ns)
        sandbox.attributes = self.kept_of(cgroup_id)
        if len(self) >= self._config.limits.sandboxes:
            self.counters["sandboxes_overflow"] += 1
            self._classify(sandbox)
            return sandbox
        self.by_id[cgroup_id] = sandbox
        self._classify(sandbox)
        if not sandbox.certain:
            self._unnamed[cgroup_id] = None
        return sandbox

    def _make(self, cgroup_id: int, path: str, class_: str, time_ns: int) -> Sandbox:
        sandbox = Sandbox(cgroup_id, path, class_, "", "none", {}, time_ns, False, (), False, class_, {})
        self._grant(sandbox)
        self._take_name(sandbox, self.name_of(path) if path else guessed("none", f"cgroup-{cgroup_id}"))
        return sandbox

    def _grant(self, sandbox: Sandbox) -> None:
        settings = self._config.classes.get(sandbox.class_) or SandboxClass()
        sandbox.granted = granted_classes(settings.granted_devices)
        sandbox.gpu_granted = grants_gpu(settings.granted_devices)
        sandbox.single = frozenset(self._singles.get(sandbox.class_, ()))

    def _classify(self, sandbox: Sandbox) -> None:
        """By all that is known of it by now. What launchers and labels say moves it away from the pattern's class,
        and back when they say it no more."""
        class_ = assigned(self._config.assign, sandbox) or sandbox.pattern_class
        if class_ == sandbox.class_ or sandbox.ended_ns:
            return
        sandbox.class_ = class_
        self._grant(sandbox)
        self.reclassified(sandbox.id, class_)

    def _stranger(self, cgroup_id: int) -> Sandbox:
        """An id whose birth was lost, or that no sandbox ever had."""
        self.counters["sandboxes_unknown"] += 1
        path = self.path_of(cgroup_id) or ""
        if path and self.outermost(path) == path.strip("/"):
            added = self._add(cgroup_id, path, 0)
            if added is not None:
                return added
        if len(self._strangers) >= STRANGERS_KEPT:
            self._strangers.clear()
        stranger = self._strangers[cgroup_id] = self._make(cgroup_id, path, "default", 0)
        return stranger

    # Asked of the host: a recording hears these three, and a replay answers them.

    def path_of(self, cgroup_id: int) -> str | None:
        return self._paths.path(cgroup_id)

    def kept_of(self, cgroup_id: int) -> dict[str, str]:
        """Attributes that a launcher gave it in an earlier run."""
        return self._store.get(cgroup_id) if self._store is not None else {}

    def name_of(self, path: str) -> Named:
        """What the runtimes' files say of a cgroup."""
        components = split(path)
        if not components:
            return guessed("none", "/")
        found = pinfold.recognise(components, self._config.instance)
        if found is None:
            found = kubernetes.recognise(components, self._files, self._mount)
        for runtime in _RUNTIMES if found is None else ():
            found = runtime.recognise(components, self._files)
            if found is not None:
                break
        # A path of its own needs no runtime to confirm it.
        return found or Named("none", guessed("none", path).name, True, {})

    def _take_name(self, sandbox: Sandbox, name: Named) -> None:
        sandbox.name = name.name
        sandbox.runtime = name.runtime
        sandbox.labels = name.labels
        sandbox.certain = name.certain
