"""What a policy would do, and which line of the file says so. The same answers as the kernel's, by the same functions
or tested against them; what only shows later (first bytes, a hash, where a name leads) is in the notes."""

from __future__ import annotations

import os
from collections.abc import Callable

from msgspec import Struct

from sensor.config import Config, SandboxClass
from sensor.configassign import class_problem
from sensor.configdevices import SingleDevice, parse_grant
from sensor.configfile import KeyPath, Lines, key_name, lines
from sensor.confignetwork import TCP, name_of
from sensor.enrich import gpus
from sensor.errors import UsageError
from sensor.respond import devicenames
from sensor.respond.devicenames import Meant
from sensor.respond.egress import NameList, entry_allows, is_loopback
from sensor.respond.policy import Policy, Subject
from sensor.respond.questions import Connect, Device, Exec, Question

_LATER = "for as long as its answers last, and only those of dns.resolvers"


class Answer(Struct, frozen=True):
    verdict: str  # as `configexamples.Verdict`
    why: str  # one line
    key: str  # of the setting that says so; "" where none does
    line: int  # of the file; of its section where the file does not have the key. 0: there is no file
    default: bool  # the file does not have it
    notes: tuple[str, ...] = ()

    def place(self, file: str) -> str:
        """`pinfold.yaml:12: classes.a.mode`, for an operator."""
        if not self.key:
            return "always so"
        if self.default or not self.line:
            return f"{self.key} (the default)"
        return f"{file}:{self.line}: {self.key}"


class Host(Struct, frozen=True):
    """Where drivers and nodes are looked for."""

    proc: str = "/proc"
    sys: str = "/sys"
    dev: str = "/dev"


def explain(
    config: Config, class_name: str, question: Question, *, file: str | None = None, host: Host | None = None
) -> Answer:
    """`config` as `config.complete` gives it; `file`: where it is from.

    :raises UsageError: there is no such class, or no such device.
    """
    unknown = class_problem(class_name, config.classes)
    if unknown is not None:
        raise UsageError(f"class: expected {unknown[0]}, found {unknown[1]}")
    asked = Explainer(config, class_name, lines(file) if file is not None else None, host or Host())
    return asked.answer(question)


class Explainer:
    """Of one class; for many questions the file is read once."""

    def __init__(self, config: Config, class_name: str, where: Lines | None, host: Host) -> None:
        self._config = config
        self._settings = config.classes.get(class_name) or SandboxClass()
        self._at: KeyPath = ("classes", class_name)
        self._class_name = class_name
        self._where = where
        self._host = host
        self._enforce = self._settings.mode == "enforce"

    def answer(self, question: Question) -> Answer:
        if isinstance(question, Connect):
            return self._by_name(question) if question.address is None else self._by_address(question, question.address)
        if isinstance(question, Device):
            return self._device(devicenames.meant(question.text, self._host.proc, self._host.dev), question.text)
        if isinstance(question, Exec):
            return self._exec(question)
        return self._detection(question)

    # Connects.

    def _by_address(self, asked: Connect, address: int) -> Answer:
        egress = self._settings.egress
        listening = self._config.metrics.listen
        local = is_loopback(address)
        if (
            local
            and asked.protocol == TCP
            and not listening.startswith("unix:")
            and listening.endswith(f":{asked.port}")
        ):
            return self._says("refused", "the sensor's own port is nobody's in a sandbox", ("metrics", "listen"))
        if egress.default == "allow":
            return self._allowed("everything may be connected to", "egress", "default", notes=self._protocols())
        if local and egress.loopback == "allow":
            return self._allowed("it is loopback", "egress", "loopback", notes=self._protocols())
        for index, entry in enumerate(egress.allow):
            if entry_allows(entry, address, asked.port, asked.protocol):
                return self._allowed(f"{entry.to} is listed", "egress", "allow", index, notes=self._protocols())
        named = [entry.to for entry in egress.allow if name_of(entry.to) is not None]
        notes = (f"allowed where {_list(named)} leads there, {_LATER}",) if named and self._config.dns.resolvers else ()
        return self._refused("no entry of the list has it", "egress", "default", notes=notes)

    def _by_name(self, asked: Connect) -> Answer:
        egress = self._settings.egress
        if egress.default == "allow":
            return self._allowed("everything may be connected to", "egress", "default", notes=self._protocols())
        fitting = set(NameList(egress).find(asked.to))
        for index, entry in enumerate(egress.allow):
            if name_of(entry.to) in fitting and entry_allows(entry, None, asked.port, asked.protocol):
                if not self._config.dns.resolvers:
                    why = f"{entry.to} is listed, and no dns.resolvers are there whose answers count"
                    return self._says(self._no("refuse"), why, ("dns", "resolvers"))
                notes = (f"its addresses, {_LATER}", *self._protocols())
                return self._allowed(f"{entry.to} is listed", "egress", "allow", index, notes=notes)
        notes = ("an address that it leads to may be in the list: ask for that",)
        return self._refused("no entry of the list has that name", "egress", "default", notes=notes)

    def _protocols(self) -> tuple[str, ...]:
        denied = self._settings.denied_protocols
        doing = "cut" if self._enforce else "told"
        return (f"{_list(denied)} is {doing} at its first bytes",) if denied else ()

    # Devices.

    def _device(self, meant: Meant, text: str) -> Answer:
        granted = self._settings.granted_devices
        notes = () if meant.here else (f"{text} is not on this host",)
        if meant.class_ == "ordinary":
            return Answer("allowed", "ordinary devices always may be opened", "", 0, True, notes)
        if meant.class_ in granted:
            index = granted.index(meant.class_)
            return self._allowed(f"{meant.class_} is granted", "granted_devices", index, notes=notes)
        there = gpus.drivers(self._host.proc, self._host.sys)
        singles = []
        for index, given in enumerate(granted):
            grant = parse_grant(given)
            if not isinstance(grant, SingleDevice):
                continue
            numbers = gpus.numbers_of(grant, there)
            if meant.number is not None and meant.number in numbers:
                return self._allowed(f"{grant} is granted", "granted_devices", index, notes=notes)
            if isinstance(numbers, str):
                notes = (*notes, f"{grant} is not granted as yet: {numbers}")
            if grant.class_ == meant.class_:
                singles.append(str(grant))
        why = f"of {meant.class_} only {_list(singles)} is granted" if singles else f"{meant.class_} is not granted"
        return self._refused(why, "granted_devices", notes=notes)

    # Programs.

    def _exec(self, asked: Exec) -> Answer:
        denied = self._settings.denied_executables
        if asked.path:
            return self._path(asked.path)
        if asked.kind == "shell-on-socket":
            if self._settings.shells_on_sockets == "deny":
                return self._killed("shells have no sockets as standard streams", "shells_on_sockets")
            return self._allowed("shells may have sockets as standard streams", "shells_on_sockets")
        name = asked.kind.replace("-", "_") if asked.kind else "sha256"
        if asked.sha256 in denied.sha256:
            notes = ("known only once it was read, soon after it began",)
            index = denied.sha256.index(asked.sha256)
            return self._killed("its hash is denied", "denied_executables", name, index, notes=notes)
        if asked.kind and getattr(denied, name):
            return self._killed(f"programs that are {asked.kind} may not run", "denied_executables", name)
        return self._allowed("nothing denies that", "denied_executables", name)

    def _path(self, path: str) -> Answer:
        denied = self._settings.denied_executables
        for index, each in enumerate(denied.paths):
            if each in (path, os.path.basename(path)):
                return self._killed(f"{each} is denied", "denied_executables", "paths", index)
        notes = []
        if "/" not in path and any(os.path.basename(each) == path for each in denied.paths):
            notes.append("one of that name is denied in some folder: ask for the whole path")
        elif denied.paths:
            notes.append("the kernel compares the file that a symbolic link leads to")
        if denied.sha256:
            notes.append("its hash may be denied: ask for that")
        kinds = [name for name in ("memfd", "deleted", "written_inside") if getattr(denied, name)]
        if kinds:
            notes.append(f"not where it is {_list(kinds)}")
        return self._allowed("no entry has it", "denied_executables", "paths", notes=tuple(notes))

    # Detections.

    def _detection(self, asked: Subject) -> Answer:
        decision = Policy(self._config, lambda _: None).answer(self._class_name, asked)
        verdict = decision.action if self._enforce or decision.action == "log" else f"would-{decision.action}"
        responses = self._settings.responses
        notes = []
        if decision.action != "log":
            if responses.grace_seconds:
                notes.append(f"{responses.grace_seconds} s after it is announced")
            if responses.exceptions:
                notes.append("unless an exception has its program and destination")
        name = "a rule's" if "rules" in decision.key else "the level's"
        return self._says(verdict, f"it is {name} response", decision.key, tuple(notes))

    # How it is said.

    def _allowed(self, why: str, *key: str | int, notes: tuple[str, ...] = ()) -> Answer:
        return self._says("allowed", why, (*self._at, *key), notes)

    def _refused(self, why: str, *key: str | int, notes: tuple[str, ...] = ()) -> Answer:
        return self._says(self._no("refuse"), why, (*self._at, *key), (*notes, *self._only_told()))

    def _killed(self, why: str, *key: str | int, notes: tuple[str, ...] = ()) -> Answer:
        return self._says(self._no("kill"), why, (*self._at, *key), (*notes, *self._only_told()))

    def _no(self, verb: str) -> str:
        return {"refuse": "refused", "kill": "killed"}[verb] if self._enforce else f"would-{verb}"

    def _only_told(self) -> tuple[str, ...]:
        return () if self._enforce else ("the class is in monitor mode: it is only told",)

    def _says(self, verdict: str, why: str, key: KeyPath, notes: tuple[str, ...] = ()) -> Answer:
        line = self._where(key) if self._where is not None else 0
        default = self._where is None or not self._where.written(key)
        return Answer(verdict, why, key_name(key), line, default, notes)


def _list(words: tuple[str, ...] | list[str]) -> str:
    return ", ".join(words[:8]) + (", …" if len(words) > 8 else "")


def asker(config: Config, file: str | None, host: Host | None = None) -> Callable[[str, Question], Answer]:
    """For many questions of any class: the file is read once."""
    where = lines(file) if file is not None else None

    def ask(class_name: str, question: Question) -> Answer:
        return Explainer(config, class_name, where, host or Host()).answer(question)

    return ask
