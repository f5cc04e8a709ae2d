"""What the configuration says about a sandbox class: for the kernel as numbers, for a detection as an action."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast, get_args

from msgspec import Struct

from sensor.config import Action, Config, SandboxClass
from sensor.configdevices import granted_classes, granted_singles
from sensor.configfile import KeyPath
from sensor.confignetwork import name_of
from sensor.configrespond import ResponseRule
from sensor.errors import RefusedError
from sensor.events.detection import LEVELS, Detection
from sensor.events.layouts import Device
from sensor.respond import prefixes
from sensor.respond.exceptions import Exceptions, FileId, file_id
from sensor.respond.executables import denied_execs

DEFAULT_CLASS = "default"
MOST_CLASSES = 64  # places of the kernel's class map

# Values of the members `mode` and `when_unrecorded` in the kernel's class map. Zero is the harmless
# one of each, so that a map entry that was never written refuses and kills nothing.
MODE_MONITOR = 0
MODE_ENFORCE = 1
UNRECORDED_ALLOW = 0
UNRECORDED_REFUSE = 1
EGRESS_LIMITED, EGRESS_LOOPBACK_TOO = 1, 2  # PF_EGRESS_… in probes/egress.bpf.c


class KernelClass(Struct, frozen=True):
    """One entry of the class map; `index` is its key, and what pf_cgroup.class_id holds."""

    index: int
    name: str
    granted: int  # bitmask: bit n is device class n of layouts.Device
    mode: int  # MODE_*
    when_unrecorded: int  # UNRECORDED_*
    denied_protocols: int = 0  # bitmask: bit n is protocol n of layouts.Prefix
    egress: int = 0  # EGRESS_*
    egress_names: bool = False  # its egress list has names
    denied_execs: int = 0  # bitmask: bit n is reason n of layouts.ExecDenied
    single_devices: bool = False  # some devices are granted by themselves


class Decision(Struct, frozen=True):
    mode: str  # monitor, enforce
    action: Action
    key: KeyPath = ()  # of the setting that says so


class Subject(Struct, frozen=True, gc=False):
    """What the policy looks at of a detection."""

    level: str
    rule_id: str = ""
    rule_title: str = ""
    tags: tuple[str, ...] = ()
    score: int | None = None  # of a behaviour


def device_mask(granted: Sequence[str]) -> int:
    """Bits of the device classes that are granted whole. Ordinary devices (null, tty, …) are always among them."""
    mask = 1 << Device.ORDINARY
    for name in granted_classes(granted):
        mask |= 1 << Device[name.upper()]
    return mask


def kernel_classes(config: Config, numbers: Mapping[str, int]) -> list[KernelClass]:
    """All classes, by the numbers of `class_index`."""
    return [_kernel_class(numbers[name], name, settings) for name, settings in _ordered(config)]


def class_index(config: Config, known: Mapping[str, int], in_force: Collection[str] = ()) -> dict[str, int]:
    """`default` is 0. A class keeps the number that it is known by: were numbers given anew, a sandbox would for an
    instant have another class's policy. Those of classes that are no more are used again last, and of those `in_force`
    until now never: sandboxes have them until they are told otherwise.

    :raises RefusedError: there are not numbers enough for that."""
    names = [name for name, _ in _ordered(config)]
    numbers = {DEFAULT_CLASS: 0} | {name: known[name] for name in names if known.get(name)}
    fresh = [index for index in range(1, MOST_CLASSES) if index not in known.values()]
    gone = [index for name, index in known.items() if name not in numbers and index and name not in in_force]
    for name in names:
        if name not in numbers:
            if not fresh and not gone:
                raise RefusedError(
                    f"classes: those in force and the new ones are more than {MOST_CLASSES}, and none may have the "
                    "place of one in force: take the old ones out first, reload, then put the new ones in"
                )
            numbers[name] = fresh.pop(0) if fresh else gone.pop(0)
    return numbers


class Policy:
    """Looks up what to do about a detection. Immutable: a reload makes another one, which binds exceptions anew.

    `bind` gives device and inode of a path on the host; None where there is no such file."""

    def __init__(self, config: Config, bind: Callable[[str], FileId | None] = file_id) -> None:
        self._classes = dict(_ordered(config))
        self._exceptions = {name: Exceptions(each.responses.exceptions, bind) for name, each in self._classes.items()}

    def decide(self, sandbox_class: str, level: str) -> Decision:
        """By the level alone, which is one of LEVELS."""
        return self.answer(sandbox_class, Subject(level))

    def answer(self, sandbox_class: str, subject: Subject) -> Decision:
        """The first entry of `responses.rules` that fits, else the level's. A class that a reload removed is treated
        as `default`."""
        name, settings = self._settings(sandbox_class)
        at: KeyPath = ("classes", name, "responses")
        for index, rule in enumerate(settings.responses.rules):
            if _fits(rule, subject):
                return Decision(settings.mode, rule.action, (*at, "rules", index))
        if subject.level not in LEVELS:
            raise KeyError(subject.level)
        action = cast(Action, getattr(settings.responses, subject.level))
        return Decision(settings.mode, action, (*at, subject.level))

    def of_detection(self, detection: Detection) -> Decision:
        return self.answer(detection.activity.SandboxClass, subject_of(detection))

    def mode(self, sandbox_class: str) -> str:
        return self._settings(sandbox_class)[1].mode

    def exception(self, detection: Detection, image: FileId | None) -> str:
        """Why it is only logged; "" where it is not. `image`: device and inode of what its process runs."""
        name, _ = self._settings(detection.activity.SandboxClass)
        return self._exceptions[name].find(detection.activity, image)

    def quarantines_per_minute(self, sandbox_class: str) -> int:
        return self._settings(sandbox_class)[1].responses.budget.quarantines_per_minute

    def grace_seconds(self, sandbox_class: str) -> int:
        return self._settings(sandbox_class)[1].responses.grace_seconds

    @property
    def unbound(self) -> list[str]:
        """Exceptions that hold for nobody, since their executable is not there; one line each."""
        return [
            f"classes.{name}.responses.exceptions: {path!a} is no file of this host: the exception holds for nobody"
            for name, exceptions in self._exceptions.items()
            for path in exceptions.unbound
        ]

    def _settings(self, sandbox_class: str) -> tuple[str, SandboxClass]:
        found = self._classes.get(sandbox_class)
        return (sandbox_class, found) if found is not None else (DEFAULT_CLASS, self._classes[DEFAULT_CLASS])


def subject_of(detection: Detection) -> Subject:
    score = getattr(detection.activity, "Score", None)
    return Subject(detection.level, detection.rule_id, detection.rule_title, detection.tags, score)


def _fits(rule: ResponseRule, subject: Subject) -> bool:
    return (
        rule.rule in ("", subject.rule_id, subject.rule_title)
        and rule.level in ("any", subject.level)
        and (not rule.tag or any(fnmatchcase(tag, rule.tag) for tag in subject.tags))
        and (not rule.score_at_least or (subject.score is not None and subject.score >= rule.score_at_least))
    )


def _ordered(config: Config) -> list[tuple[str, SandboxClass]]:
    default = config.classes.get(DEFAULT_CLASS, SandboxClass())
    others = sorted((name, settings) for name, settings in config.classes.items() if name != DEFAULT_CLASS)
    return [(DEFAULT_CLASS, default), *others]


def _egress(settings: SandboxClass) -> int:
    if settings.egress.default == "allow":
        return 0
    return EGRESS_LIMITED | (EGRESS_LOOPBACK_TOO if settings.egress.loopback == "deny" else 0)


def _kernel_class(index: int, name: str, settings: SandboxClass) -> KernelClass:
    return KernelClass(
        index=index,
        name=name,
        granted=device_mask(settings.granted_devices),
        mode=MODE_ENFORCE if settings.mode == "enforce" else MODE_MONITOR,
        when_unrecorded=UNRECORDED_REFUSE if settings.when_unrecorded == "refuse" else UNRECORDED_ALLOW,
        denied_protocols=prefixes.mask(settings.denied_protocols),
        egress=_egress(settings),
        egress_names=any(name_of(entry.to) for entry in settings.egress.allow),
        denied_execs=denied_execs(settings),
        single_devices=bool(granted_singles(settings.granted_devices)),
    )


ACTIONS: tuple[str, ...] = get_args(Action)
