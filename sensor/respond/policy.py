"""What the configuration says about a sandbox class: for the kernel as numbers, for a detection as an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

from msgspec import Struct

from sensor.config import Action, Config, SandboxClass
from sensor.configdevices import granted_classes, granted_singles
from sensor.confignetwork import name_of
from sensor.events.detection import LEVELS
from sensor.events.layouts import Device
from sensor.respond import prefixes
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


def device_mask(granted: Sequence[str]) -> int:
    """Bits of the device classes that are granted whole. Ordinary devices (null, tty, …) are always among them."""
    mask = 1 << Device.ORDINARY
    for name in granted_classes(granted):
        mask |= 1 << Device[name.upper()]
    return mask


def kernel_classes(config: Config, numbers: Mapping[str, int]) -> list[KernelClass]:
    """All classes, by the numbers of `class_index`."""
    return [_kernel_class(numbers[name], name, settings) for name, settings in _ordered(config)]


def class_index(config: Config, known: Mapping[str, int]) -> dict[str, int]:
    """`default` is 0. A class keeps the number that it is known by: were numbers given anew, a sandbox would for an
    instant have another class's policy. Those of classes that are no more are used again last."""
    names = [name for name, _ in _ordered(config)]
    numbers = {DEFAULT_CLASS: 0} | {name: known[name] for name in names if known.get(name)}
    fresh = [index for index in range(1, MOST_CLASSES) if index not in known.values()]
    gone = [index for name, index in known.items() if name not in numbers and index]
    for name in names:
        if name not in numbers:
            numbers[name] = fresh.pop(0) if fresh else gone.pop(0)
    return numbers


class Policy:
    """Looks up what to do about a detection. Immutable: a reload makes another one."""

    def __init__(self, config: Config) -> None:
        self._decisions = {
            (name, level): Decision(settings.mode, getattr(settings.responses, level))
            for name, settings in _ordered(config)
            for level in LEVELS
        }

    def decide(self, sandbox_class: str, level: str) -> Decision:
        """`level` is one of LEVELS. A class that a reload removed is treated as `default`."""
        found = self._decisions.get((sandbox_class, level))
        return found if found is not None else self._decisions[DEFAULT_CLASS, level]


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
