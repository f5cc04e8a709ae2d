"""Our part of the kernel: pinned probes found or made, filled with the configuration, attached, active."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from struct import pack

from msgspec import Struct
from msgspec.structs import replace

from sensor.bpf import attach, features, libbpf, objects, steps, unwanted
from sensor.bpf.denials import JUDGES_POLICY, JUDGES_QUARANTINE, Denials
from sensor.bpf.maps import Sizes
from sensor.bpf.objects import Generation, Handle
from sensor.bpf.ring import Ring
from sensor.bpf.state import Class, GrantKey
from sensor.bpf.tables import Tables
from sensor.config import GPU_CLASSES, Config
from sensor.enrich.devices import Classifier, class_name, device_table
from sensor.enrich.gpus import numbers_now, single_grants
from sensor.errors import HostError, RefusedError
from sensor.events.layouts import ABI, Cgroup, Device, Type
from sensor.respond import prefixes
from sensor.respond.egress import egress_entries
from sensor.respond.executables import executable_entries
from sensor.respond.policy import DEFAULT_CLASS, UNRECORDED_REFUSE, KernelClass, class_index, kernel_classes
from sensor.rules.pushdown import EVERYTHING, Pushdown

REPEAT_FLUSH_NS = 1_000_000_000
MOST_IMAGES = 4096  # files whose denied content is remembered over a reload
CLOCK_SET_NS = 500_000_000  # by so much the clock was set; by less it is being adjusted


class Gap(Struct, frozen=True):
    """A parent of sandboxes that was removed and made again: what was in it before it was watched again
    was seen late."""

    folder: str


class Kernel:
    """`fresh`: the probes are new, nothing was recorded before. `mount` is where cgroup2 is."""

    def __init__(self, config: Config, mount: str) -> None:
        self.mount = mount
        self._config = config
        base = objects.ensure_base(config.paths.bpffs, config.instance)
        self.handle = Handle(base)
        self.denials = Denials(self.handle)
        self._sizes = _sizes(config)
        self.features = features.chosen(config.syscalls == "full")
        abi = objects.abi_digest(self._sizes, self.features)
        found = objects.take_over(base, abi, self._sizes, self.features)
        self.fresh = found is None
        self.generation: Generation = found or objects.build(base, abi, self._sizes, self.features, config.paths.cache)
        self.older = objects.others(base, self.generation)
        self.tables = Tables(self.generation)
        self.ring = ring_of(self.generation)
        # A new generation goes on with the numbers of the one before: sandboxes are taken over with theirs.
        tables = (self.tables, *(Tables(older) for older in reversed(self.older) if older.layout == ABI))
        self._numbers = next(filter(None, (each.class_names() for each in tables)), {})
        self._patterns: list[tuple[str, int]] = []
        self._plan = steps.compile_patterns([])
        self._devices = ""
        self._classifier = Classifier([])
        self._limited = self._judging = self._automaton_written = False
        self._classes: list[KernelClass] = []
        self._executables: dict[bytes, bytes] = {}
        self._images: OrderedDict[tuple[int, int], tuple[int, str]] = OrderedDict()  # change time and digest of a file
        self._images_denied: set[tuple[int, int, int]] = set()
        self._realtime_ns = 0

    @property
    def active(self) -> bool:
        return self.handle.read().active_generation == self.generation.number

    def configure(self, config: Config, classes_now: Mapping[int, str] | None = None) -> None:
        """Policy, patterns and devices, as `config` has them. For a reload `classes_now` has the class that each
        sandbox is to have; else those that are known keep theirs until `classify`: what labels gave a sandbox in an
        earlier run must not be its pattern's for a moment."""
        index = class_index(config, self._numbers, () if classes_now is None else self._config.classes)
        classes = kernel_classes(config, index)
        single_grants(config)  # refuses a GPU that is not there, before anything is kept
        patterns = [(pattern.path, index[pattern.class_]) for pattern in config.sandboxes]
        plan = steps.compile_patterns(patterns)
        # Nothing is kept of a configuration that is refused up to here.
        self._config, self._patterns, self._plan = config, patterns, plan
        self._numbers = {name: number for name, number in self._numbers.items() if number not in index.values()} | index
        # What is denied is in the maps before a class says that it asks there.
        if not self._automaton_written and any(entry.denied_protocols for entry in classes):
            self.tables.write_automaton(prefixes.automaton())  # the same for every policy, and 100 ms of work
            self._automaton_written = True
        self.tables.write_egress(egress_entries(config, index))
        self._executables = executable_entries(config, index)
        self.tables.add_executables(self._executables)
        self._deny_images()
        self._write_grants(single_grants(config))
        self._classes = classes
        self._write_classes()
        self._limited = any(entry.egress for entry in classes)
        self._judging = self._limited or any(entry.denied_protocols for entry in classes)
        self.refresh_devices()
        _make_cgroup(f"{self.mount}/{config.instance}")
        self.tables.write_steps(self._plan)
        found = steps.find(self._plan, self.mount, self._plan.first)
        self.tables.write_watch(found, whole=True)
        by_name = {sandbox_id: index[name] for sandbox_id, name in (classes_now or {}).items() if name in index}
        for sandbox_id, class_id in found.sandboxes:
            self.tables.add_sandbox(sandbox_id, by_name.get(sandbox_id, class_id), change=classes_now is not None)
        if classes_now is not None:
            self.forget_executables()

    def forget_executables(self) -> None:
        """Those that no class denies any more. Not before every sandbox has its class: until then an old one holds."""
        self.tables.keep_executables(self._executables)
        wanted = self._wanted_images()
        for class_id, device, inode in self._images_denied - wanted.keys():
            self.tables.allow_image(class_id, device, inode)
        self._images_denied = set(wanted)

    def leave_out(self, pushdown: Pushdown) -> None:
        """What is not sent, since no rule can match it; nothing where the log is to have everything."""
        wanted = EVERYTHING if self._config.log.unmatched else pushdown
        devices = [Device[name.upper()] for name in wanted.devices]
        unwanted.write(self.generation, devices, wanted.local, wanted.outward)

    def unsent(self) -> dict[str, int]:
        return unwanted.unsent(self.generation)

    def classify(self, sandbox_id: int, name: str) -> None:
        """What is known of a sandbox beyond its path gave it a class, or took it away."""
        self.tables.add_sandbox(sandbox_id, self._numbers.get(name, self._numbers[DEFAULT_CLASS]))

    def _write_classes(self) -> None:
        self._realtime_ns = time.time_ns() - time.monotonic_ns()
        self.tables.write_classes((entry.index, _class_entry(entry, self._realtime_ns)) for entry in self._classes)

    def deny_image(self, class_name: str, device: int, inode: int, changed: int, digest: str) -> None:
        """A file of that content, for this class; and for every class that a reload gives the same digest."""
        self._images[device, inode] = (changed, digest)
        self._images.move_to_end((device, inode))
        if len(self._images) > MOST_IMAGES:
            self._images.popitem(last=False)
        if (number := self._numbers.get(class_name)) is not None:
            self.tables.deny_image(number, device, inode, changed)
            self._images_denied.add((number, device, inode))

    def _deny_images(self) -> None:
        for key, changed in self._wanted_images().items():
            self.tables.deny_image(*key, changed)
            self._images_denied.add(key)

    def _wanted_images(self) -> dict[tuple[int, int, int], int]:
        """Class, device and inode of what is known to be denied by its content, and the file's change time."""
        found = {}
        for name, settings in self._config.classes.items():
            denied = set(settings.denied_executables.sha256)
            for (device, inode), (changed, digest) in self._images.items() if denied else ():
                if digest in denied:
                    found[self._numbers[name], device, inode] = changed
        return found

    def refresh_devices(self) -> None:
        """Drivers that load late get their major then: nvidia-uvm is one."""
        with open("/proc/devices", encoding="ascii", errors="replace") as file:
            text = file.read()
        if text != self._devices:
            self._devices = text
            table = device_table(text)
            self.tables.write_devices(table)
            self._classifier = Classifier(table)
            self._write_grants(numbers_now(self._config))

    def _write_grants(self, grants: Mapping[str, Iterable[tuple[int, int, int]]]) -> None:
        """Single devices, by class. Their drivers' numbers may come and go."""
        keys = [
            GrantKey(self._numbers[name], kind, major, minor).pack()
            for name, numbers in grants.items()
            for kind, major, minor in numbers
        ]
        self.tables.write_grants(dict.fromkeys(keys, pack("<I", 1)))

    def want_calls(self, numbers: Iterable[int]) -> None:
        """Of the rules that are loaded."""
        if features.GATE in self.features:
            self.tables.write_calls(numbers)

    def is_gpu(self, kind: int, major: int, minor: int) -> bool:
        """Whether a device number is a GPU's, by the table that was last written."""
        return class_name(self._classifier.classify(kind, major, minor)) in GPU_CLASSES

    def attach(self) -> None:
        attach.attach_tracepoints(self.generation)
        ids = []
        for path in self.attached_folders():
            try:
                attach.attach_cgroup(self.generation, path)
                ids.append(os.stat(path).st_ino)
            except FileNotFoundError:
                continue  # its birth will be told, and it is attached then
        attach.detach_others(self.generation, ids)

    def attached_folders(self) -> list[str]:
        """The cgroups that hold the programs, or will once they are made."""
        folders = steps.literal_folders(self._patterns)
        return [f"{self.mount}/{folder}" if folder else self.mount for folder in folders]

    def seed_from_older(self) -> None:
        """What earlier generations know of processes: who had left its sandbox's cgroup is found nowhere else."""
        for older in self.older:
            if older.layout != ABI:
                continue
            tables = Tables(older)
            for entry in tables.sandboxes(self._config.limits.sandboxes):
                self.tables.add_sandbox(entry.id, entry.class_id)
            for tgid, process in tables.processes(self._config.limits.processes):
                if os.path.exists(f"/proc/{tgid}"):
                    self.tables.add_process(
                        tgid, process.start_ns, process.sandbox_id, process.exec_id, process.user_ns
                    )

    def add_processes(self, known: Iterable[tuple[int, int, int]]) -> None:
        """(tgid, start_ns, sandbox id) of what was found in /proc. One that ended in between is taken out again."""
        now = time.monotonic_ns()
        for tgid, start_ns, sandbox_id in known:
            self.tables.add_process(tgid, start_ns, sandbox_id, now, _user_namespace(tgid))
            if not os.path.exists(f"/proc/{tgid}"):
                self.tables.drop_process(tgid)

    def activate(self, protected_port: int, *, armed: bool) -> None:
        """One word switches from the older generation to this one."""
        self.handle.write(
            armed=int(armed),
            protected_port=protected_port,
            budget_bytes=self._config.ring.sandbox_budget_bytes or self._sizes.ring_bytes // 4,
            repeat_flush_ns=REPEAT_FLUSH_NS,
            **self._flow_settings(),
        )
        self.leave_out(EVERYTHING)  # an earlier run's settings: the self-test is to see all that it does
        self.handle.write(active_generation=self.generation.number)

    def arm(self, armed: bool) -> None:
        """As the operator has it, whatever the entry says."""
        if bool(self.handle.read().armed) != armed:
            self.handle.write(armed=int(armed))

    def apply_flow_settings(self) -> None:
        """After a reload."""
        self.handle.write(**self._flow_settings())

    def _flow_settings(self) -> dict[str, int]:
        flows = self._config.flows
        return {
            "flow_late_ns": flows.late_seconds * 1_000_000_000,
            "flow_window_ns": flows.window_seconds * 1_000_000_000,
            "flow_full": flows.full_per_peer,
            "flow_sample": flows.sample_one_in,
            "sample_ns": flows.sample_seconds * 1_000_000_000,
            "idle_ns": flows.idle_seconds * 1_000_000_000,
            "pause_ns": flows.pause_ms * 1_000_000,
            "inversion_ns": flows.after_inversion_ms * 1_000_000,
            "egress_any": int(self._limited),
            "judges_packets": self.handle.read().judges_packets & JUDGES_QUARANTINE
            | (JUDGES_POLICY if self._judging else 0),
            # Any other number than before: every flow is judged again.
            "policy": time.monotonic_ns(),
        }

    def retire(self, older: Generation) -> None:
        """Its ring has been read to the end: detach, unpin, close."""
        attach.detach_all(older)
        objects.remove_folder(older.folder)
        older.close()
        self.older.remove(older)

    def give_up(self) -> None:
        """The self-test failed: what was made just now is removed, and what acted before acts again."""
        if self.fresh:
            self.handle.write(active_generation=self.older[-1].number if self.older else 0)
            attach.detach_all(self.generation)
            objects.remove_folder(self.generation.folder)

    def watched(self, record: Cgroup) -> Gap | None:
        """A parent of sandboxes came or went. One that comes is attached if it is to hold the programs, and
        what is in it by now is found; that is the gap."""
        if record.type != Type.CGROUP_BIRTH:
            return None
        path = os.fsdecode(record.path.rstrip(b"\0")).strip("/")
        folder = f"{self.mount}/{path}"
        gap = None
        if path in steps.literal_folders(self._patterns):
            try:
                if attach.attach_cgroup(self.generation, folder):
                    gap = Gap(path)
            except (FileNotFoundError, RefusedError):
                return None  # it is gone again; another birth will be told
        # A name longer than the matcher's, or a full map, would leave it unwatched: what is there is found here.
        at = steps.steps_at(self._plan, path)
        found = steps.find(self._plan, folder, at)
        self.tables.write_watch(found, whole=False)
        for sandbox_id, class_id in found.sandboxes:
            self.tables.add_sandbox(sandbox_id, class_id, change=False)
        return gap

    def sweep(self) -> None:
        self.tables.sweep_repeats(time.monotonic_ns(), REPEAT_FLUSH_NS)
        self.tables.sweep_peers(time.monotonic_ns(), self._config.flows.window_seconds * 1_000_000_000)
        self.tables.drop_ended(self._config.limits.sandboxes)
        if abs(time.time_ns() - time.monotonic_ns() - self._realtime_ns) > CLOCK_SET_NS:
            self._write_classes()


def _sizes(config: Config) -> Sizes:
    limits = config.limits
    sizes = Sizes(config.ring.size_bytes, limits.sandboxes, limits.processes, limits.repeats, limits.watched_cgroups)
    sizes = replace(sizes, flows=config.flows.table)
    if sizes.ring_bytes & (sizes.ring_bytes - 1):
        raise HostError(f"ring.size_bytes: {sizes.ring_bytes} is no power of two")
    return sizes


def _class_entry(entry: KernelClass, realtime_ns: int) -> Class:
    return Class(
        enforce=entry.mode,
        granted_devices=entry.granted,
        refuse_unrecorded=entry.when_unrecorded == UNRECORDED_REFUSE,
        denied_protocols=entry.denied_protocols,
        egress_limited=entry.egress,
        egress_names=entry.egress_names,
        denied_execs=entry.denied_execs,
        single_devices=entry.single_devices,
        realtime_ns=realtime_ns,
        name=entry.name.encode().ljust(32, b"\0"),
    )


def _user_namespace(tgid: int) -> int:
    """0 where the process is gone: the probes then take the first that they see for the one it was in."""
    try:
        return os.stat(f"/proc/{tgid}/ns/user").st_ino
    except OSError:
        return 0


def _make_cgroup(path: str) -> None:
    """The parent of `pinfold sandbox run`, and of the self-test's sandbox."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as cause:
        raise HostError(f"the cgroup {path} cannot be made: {cause.strerror}; cgroup2 must be writable") from cause


def ring_of(generation: Generation) -> Ring:
    """Its ring, mapped. The size is asked of the kernel: an older generation may have another."""
    descriptor = os.dup(generation.maps["events"])
    return Ring(descriptor, libbpf.map_entries(descriptor))
