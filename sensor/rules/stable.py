"""What of an event is likely to be the same the next time: names and options rather than paths, addresses and ids."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from sensor.events.activity import Activity, ProcessCreation

MOST_WORDS = 4
_MOST_WORD = 32
_MOST_NAME = 128
_EPHEMERAL = 32768  # ports that the kernel picks
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
# What runs another program's text: the script is what was done.
_INTERPRETERS = ("python", "perl", "ruby", "node", "php", "lua", "sh", "bash", "dash", "zsh", "busybox", "java")

_C2, _HIDE, _ROOT = "attack.command-and-control", "attack.defense-evasion", "attack.privilege-escalation"
TAGS: dict[str, tuple[str, ...]] = {
    "process_creation": ("attack.t1059", "attack.execution"),
    "process_termination": ("attack.t1489", "attack.impact"),
    "network_connection": ("attack.t1071", _C2),
    "network_flow": ("attack.t1071", _C2),
    "network_protocol": ("attack.t1071", _C2),
    "network_behavior": ("attack.t1071", _C2),
    "network_listen": ("attack.t1090", _C2),
    "dns_query": ("attack.t1071.004", _C2),
    "device_access": ("attack.t1611", _ROOT),
    "process_migration": ("attack.t1611", _ROOT),
    "sensor_access": ("attack.t1562.001", _HIDE),
    "file_event": ("attack.t1565.001", "attack.impact"),
    "file_access": ("attack.t1005", "attack.collection"),
    "file_rename": ("attack.t1036", _HIDE),
    "file_delete": ("attack.t1070.004", _HIDE),
    "file_change": ("attack.t1222.002", _HIDE),
    "system_call": ("attack.t1106", "attack.execution"),
}
_FILE = ("Action", "TargetFilename", "Place")
# In the order in which a person would ask; flags are kept whatever they are, empty texts and zeros are not.
_FIELDS: dict[str, tuple[str, ...]] = {
    "process_termination": ("ExitCode", "ExitSignal"),
    "network_connection": ("Protocol", "DestinationPort", "Initiated", "DestinationIsLoopback"),
    "network_flow": ("Phase", "Protocol", "DestinationPort", "Initiated", "DestinationIsLoopback"),
    "network_protocol": (
        "ApplicationProtocol", "MessageKind", "Method", "Upgrade", "Subprotocol", "Dialect", "FromSandbox", "Initiated",
        "DestinationIsLoopback",
    ),
    "network_behavior": ("Behavior", "Score"),
    "network_listen": ("Protocol", "SourcePort", "SourceIsLoopback"),
    "dns_query": ("RegisteredDomain", "QueryType", "Answered"),
    "device_access": ("DeviceClass", "DeviceType", "Access", "Granted"),
    "process_migration": ("Direction", "Way", "MoverSandboxed"),
    "sensor_access": ("Attempt", "Target", "Signal"),
    "file_event": _FILE, "file_access": _FILE, "file_rename": _FILE, "file_delete": _FILE, "file_change": _FILE,
    "system_call": ("SystemCall", "Action", "Capability", "TargetInSandbox"),
}  # fmt: skip
# Categories in which the program is part of what was done.
_BY_PROGRAM = frozenset({"process_termination", "network_connection", "network_flow", "network_listen"})


class Chosen(Struct, frozen=True):
    """`detection`: named parts, all of which must match. `telling`: fields in each of which a near miss may differ;
    `shown`: fields that an example has."""

    title: str
    description: str
    detection: dict[str, Any]
    telling: tuple[str, ...]
    shown: tuple[str, ...]
    program: bool = False
    words: tuple[str, ...] = ()
    script: str = ""


def choose(event: Activity) -> Chosen:
    if isinstance(event, ProcessCreation):
        return _program(event)
    detection: dict[str, Any] = {}
    for name in _FIELDS[event.category]:
        value = getattr(event, name)
        if value in ("", 0) and not isinstance(value, bool):
            continue
        if name.endswith("Port") and value >= _EPHEMERAL:
            continue
        detection |= _item(name, value)
    telling = tuple(name.partition("|")[0] for name in detection)
    by_program = event.category in _BY_PROGRAM and event.Image
    parts = {"selection": detection} if detection else {}
    if by_program and detection:
        parts["program"] = {"Image|endswith": f"/{_escaped(_name(event.Image))}"}
    said = ", ".join(f"{name} {value}" for name, value in detection.items())
    who = _name(event.Image) or "A program"
    return Chosen(
        title=f"{event.category.replace('_', ' ').capitalize()} by {who}",
        description=f"{who} in a sandbox was seen with {said}.",
        detection=parts,
        telling=telling,
        shown=(*telling, "Image", "CommandLine"),
        program=bool(by_program),
    )


def _item(name: str, value: Any) -> dict[str, Any]:
    if name == "Score":
        return {"Score|gte": value}
    if name == "TargetFilename":  # the last folder and the name: the home before them is another's next time
        return {"TargetFilename|endswith": "/" + "/".join(_escaped(part) for part in value.split("/")[-2:] if part)}
    return {name: _escaped(value) if isinstance(value, str) else value}


def _program(event: ProcessCreation) -> Chosen:
    argv = event.argv.decode("utf-8", "replace").split("\0")[:-1] or event.CommandLine.split(" ")
    name, invoked = _name(event.Image), _name(event.ImageInvoked)
    rest = argv[1:]
    script = ""
    if name.rstrip("0123456789.-").casefold() in _INTERPRETERS:
        at = next((at for at, word in enumerate(rest) if not word.startswith("-")), None)
        if at is not None and plain(_name(rest[at])) and not _takes_text(rest[:at]):
            script, rest = _name(rest[at]), rest[at + 1 :]
    words = _words(rest)
    detection: dict[str, Any] = {}
    if name:
        one = {"Image|endswith": f"/{_escaped(name)}"}
        other = {"ImageInvoked|endswith": f"/{_escaped(invoked)}"}
        detection["named"] = [one, other] if invoked and invoked != name else one
    looked_for = ([f"{script}"] if script else []) + [f" {word}" for word in words]
    if looked_for:
        key = "CommandLine|contains|all" if len(looked_for) > 1 else "CommandLine|contains"
        detection["words"] = {key: looked_for if len(looked_for) > 1 else looked_for[0]}
    who = script or invoked or name
    said = f" with {', '.join(words)}" if words else ""
    return Chosen(
        title=f"{who} is run{said}",
        description=f"{who} was run in a sandbox{said}: its name and these words, in any order and from any folder.",
        detection=detection,
        telling=(),
        shown=("Image", "ImageInvoked", "CommandLine"),
        program=bool(name),
        words=tuple(words),
        script=script,
    )


def _words(rest: list[str]) -> list[str]:
    """Options without their values, and subcommands; not what stands for one host, file or number."""
    found: dict[str, None] = {}
    positional = 0
    for word in rest:
        head = word.partition("=")[0]
        if head.startswith("-"):
            if len(head) > 1 and plain(head) and not any(map(str.isdigit, head)):
                found[head] = None
        else:
            positional += 1
            if positional <= 2 and 3 <= len(word) <= 20 and plain(word) and word.isalpha() and word.islower():
                found[word] = None
    return list(found)[:MOST_WORDS]


def _takes_text(options: list[str]) -> bool:
    """`-c`, `-lc`, `-e`: what follows is code."""
    return any(not word.startswith("--") and word[-1:] in {"c", "e", "m"} for word in options)


def plain(word: str) -> bool:
    return 0 < len(word) <= _MOST_WORD and _LETTERS.issuperset(word)


def _name(path: str) -> str:
    return path.rpartition("/")[2][-_MOST_NAME:]


def _escaped(text: str) -> str:
    """Sigma's wildcards as themselves."""
    return text.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
