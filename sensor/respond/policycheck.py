"""What a policy that loads may still not mean: said as warnings, since it may be meant after all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase

from msgspec import Struct

from sensor.config import Config, SandboxClass
from sensor.configfile import KeyPath, key_name, lines
from sensor.confignetwork import TCP, name_of, ranges_of
from sensor.configrespond import actions
from sensor.enrich import gpus
from sensor.respond.egress import matches
from sensor.respond.exceptions import file_id
from sensor.respond.explain import Host

# Where a denied protocol usually is, to see that an entry for it lets nothing through.
_PORTS = {"ssh": 22, "socks": 1080, "bore": 7835, "http-connect": 3128}


class Caution(Struct, frozen=True):
    key: str
    line: int
    text: str


class Known(Struct, frozen=True, gc=False):
    """A rule that would be loaded, as far as responses name it."""

    id: str
    title: str
    tags: tuple[str, ...]


def warnings(
    config: Config, file: str, rules: Iterable[Known] | None = None, host: Host | None = None
) -> list[Caution]:
    """In the order of the file. `rules`: those that the configuration loads; without them names are not looked at."""
    line = lines(file)
    known = list(rules) if rules is not None else None
    found = [*_devices(config, host or Host()), *_assignments(config)]
    for name, settings in config.classes.items():
        found += _class(("classes", name), settings, config, known)
    told = [Caution(key_name(at), line(at), text) for at, text in found]
    return sorted(told, key=lambda warning: warning.line)


_Found = tuple[KeyPath, str]


def _class(at: KeyPath, settings: SandboxClass, config: Config, rules: list[Known] | None) -> Iterator[_Found]:
    yield from _monitored(at, settings)
    yield from _egress(at, settings, config)
    for index, path in enumerate(settings.denied_executables.paths):
        if path.startswith("/") and (real := os.path.realpath(path)) != path:
            where: KeyPath = (*at, "denied_executables", "paths", index)
            yield where, f"{path} leads to {real} on this host, which is what the kernel compares: deny that"
    responses = settings.responses
    for index, exception in enumerate(responses.exceptions):
        if file_id(exception.executable) is None:
            where = (*at, "responses", "exceptions", index, "executable")
            yield where, f"{exception.executable} is no file of this host: the exception holds for nobody"
    for index, rule in enumerate(responses.rules if rules is not None else ()):
        where = (*at, "responses", "rules", index)
        if rule.rule and not any(rule.rule in (one.id, one.title) for one in rules or ()):
            yield (*where, "rule"), f"no rule that is loaded has the id or title {rule.rule!a}"
        if rule.tag and not any(fnmatchcase(tag, rule.tag) for one in rules or () for tag in one.tags):
            yield (*where, "tag"), f"no rule that is loaded has a tag like {rule.tag!a}"


def _monitored(at: KeyPath, settings: SandboxClass) -> Iterator[_Found]:
    if settings.mode == "enforce":
        return
    meant = sorted(actions(settings.responses) - {"log"})
    if meant:
        text = f"{', '.join(meant)} is only told, since the class is in monitor mode"
        yield (*at, "responses"), text
    elif settings.responses.grace_seconds:
        yield (*at, "responses", "grace_seconds"), "nothing is waited for in monitor mode"
    if settings.denied_protocols:
        yield (*at, "denied_protocols"), "only told, since the class is in monitor mode"
    if settings.egress.default == "deny":
        yield (*at, "egress", "default"), "only told, since the class is in monitor mode"


def _egress(at: KeyPath, settings: SandboxClass, config: Config) -> Iterator[_Found]:
    egress = settings.egress
    for index, entry in enumerate(egress.allow):
        where: KeyPath = (*at, "egress", "allow", index)
        if name_of(entry.to) is not None and not config.dns.resolvers:
            yield where, f"{entry.to} leads nowhere: no dns.resolvers are there whose answers count"
        ranges = ranges_of(entry)
        for protocol in settings.denied_protocols:
            port = _PORTS.get(protocol)
            narrow = all(each.low == each.high == port and each.protocol in {0, TCP} for each in ranges)
            if port is not None and ranges and narrow:
                yield where, f"port {port} is allowed, and {protocol}, which is usually there, is cut"
    if egress.default == "deny" and config.dns.resolvers:
        for index, resolver in enumerate(config.dns.resolvers):
            if not any(_reaches(settings, resolver, protocol) for protocol in (6, 17)):
                text = f"{resolver} is not in the list of {at[-1]}, whose sandboxes cannot ask it"
                yield ("dns", "resolvers", index), text


def _reaches(settings: SandboxClass, resolver: str, protocol: int) -> bool:
    return matches(settings.egress, resolver, 53, protocol)


def _devices(config: Config, host: Host) -> Iterator[_Found]:
    grants = gpus.resolve(config, gpus.drivers(host.proc, host.sys))
    for problem in grants.problems:
        yield problem.path, f"expected {problem.expected}, found {problem.found}: a sensor on this host refuses it"
    for name, settings in config.classes.items():
        for index, text in enumerate(settings.granted_devices):
            at: KeyPath = ("classes", name, "granted_devices", index)
            prefix = key_name(at) + ": "
            yield from ((at, line.removeprefix(prefix)) for line in grants.pending if line.startswith(prefix))
            if text in {"memory", "block"}:
                yield at, f"whoever may open {text} devices can take over the host"


def _assignments(config: Config) -> Iterator[_Found]:
    """Labels are a launcher's word: a move to a class that allows more is worth a look."""
    for index, rule in enumerate(config.assign):
        settings = config.classes.get(rule.class_, SandboxClass())
        stricter = any(config.classes.get(one.class_, SandboxClass()).mode == "enforce" for one in config.sandboxes)
        if rule.labels and settings.mode == "monitor" and stricter:
            text = f"whoever starts a container can label it into {rule.class_}, which is in monitor mode"
            yield ("assign", index), text
