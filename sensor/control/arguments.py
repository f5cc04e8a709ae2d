"""What each operation is asked with. One definition for both sides: the api refuses with it what it can,
the core believes nothing and decodes again."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sensor.errors import UsageError

MOST_REASON = 512
MOST_TTL_SECONDS = 30 * 86400
MOST_SILENCE_SECONDS = 366 * 86400
MOST_ATTRIBUTES = 32
MOST_DETECTIONS = 1000
MOST_RECORDED_SECONDS = 86400
MOST_RECORDED_BYTES = 4 * 1024 * 1024 * 1024

# Neither control characters nor separators of lines: it is shown on terminals, and is a line of the audit.
Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MOST_REASON,
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u0020\u007f-\u00a0\u2028\u2029]"
        r"[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
        description="Why: one printable line that is not blank. It is kept in the audit.",
    ),
]
Ref = Annotated[
    str,
    Meta(min_length=1, max_length=4096, description="A sandbox's name, its cgroup id, or its cgroup path."),
]
Id = Annotated[str, Meta(min_length=1, max_length=128)]
Key = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
Value = Annotated[str, Meta(max_length=256, pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$")]
Word = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$")]
Level = Literal["informational", "low", "medium", "high", "critical"]
Flag = Literal["0", "1"]


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class OfSandbox(Struct, frozen=True, forbid_unknown_fields=True):
    ref: Ref


class OfQuarantine(Struct, frozen=True, forbid_unknown_fields=True):
    id: Id


class OfDetection(Struct, frozen=True, forbid_unknown_fields=True):
    id: Id


class ListQuarantines(Struct, frozen=True, forbid_unknown_fields=True):
    all: Flag = "0"  # ended ones too


class ListDetections(Struct, frozen=True, forbid_unknown_fields=True):
    sandbox: Ref | None = None
    level: Level | None = None  # and above
    rule: Word | None = None  # its id or title
    limit: Annotated[int, Meta(ge=1, le=MOST_DETECTIONS)] = 100


class Explain(Struct, frozen=True, forbid_unknown_fields=True):
    """One question, or none: then what applies to the sandbox at all."""

    sandbox: Ref
    connect: Word | None = None  # HOST:PORT
    device: Word | None = None
    exec: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None


class AddQuarantine(Struct, frozen=True, forbid_unknown_fields=True):
    sandbox: Ref
    reason: Reason
    ttl_seconds: Annotated[int, Meta(ge=0, le=MOST_TTL_SECONDS)] = 0  # 0: none
    on_expiry: Literal["release", "kill", "hold"] = "hold"
    freeze: bool = True
    loopback: bool = False
    evidence: bool = True
    detection_id: Annotated[str, Meta(max_length=128)] = ""
    dry_run: bool = False


class EndQuarantine(Struct, frozen=True, forbid_unknown_fields=True):
    id: Id
    reason: Reason
    dry_run: bool = False


class KillSandbox(Struct, frozen=True, forbid_unknown_fields=True):
    ref: Ref
    reason: Reason
    dry_run: bool = False


class SetAttributes(Struct, frozen=True, forbid_unknown_fields=True):
    """Replaces all of the sandbox's attributes."""

    ref: Ref
    reason: Reason
    attributes: Annotated[dict[Key, Value], Meta(max_length=MOST_ATTRIBUTES)]
    dry_run: bool = False


class Because(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Reason
    dry_run: bool = False


class Acknowledge(Struct, frozen=True, forbid_unknown_fields=True):
    id: Id
    reason: Reason
    dry_run: bool = False


class AddSilence(Struct, frozen=True, forbid_unknown_fields=True):
    """What all of its selectors fit is not told of; one at least."""

    reason: Reason
    until_seconds: Annotated[int, Meta(ge=1, le=MOST_SILENCE_SECONDS)]  # from now
    from_seconds: Annotated[int, Meta(ge=0, le=MOST_SILENCE_SECONDS)] = 0  # from now: a maintenance window to come
    rule: Word | None = None
    sandbox: Ref | None = None
    class_: Word | None = msgspec.field(name="class", default=None)
    dry_run: bool = False


class RemoveSilence(Struct, frozen=True, forbid_unknown_fields=True):
    id: Id
    reason: Reason
    dry_run: bool = False


class BeginRecording(Struct, frozen=True, forbid_unknown_fields=True):
    """Of what the sensor reads, raw: arguments and first bytes with all that they hold. Root alone may ask."""

    reason: Reason
    seconds: Annotated[int, Meta(ge=1, le=MOST_RECORDED_SECONDS)] = 600
    bytes: Annotated[int, Meta(ge=65536, le=MOST_RECORDED_BYTES)] = 256 * 1024 * 1024
    sandbox: Ref | None = None  # of this one alone
    dry_run: bool = False


READS: dict[str, type[Struct]] = {
    "resolve": OfSandbox,  # name, id and path alone
    "sandbox": OfSandbox,
    "tree": OfSandbox,
    "quarantines": ListQuarantines,
    "quarantine": OfQuarantine,
    "policy": Nothing,
    "explain": Explain,
    "detections": ListDetections,
    "detection": OfDetection,
    "silences": Nothing,
    "top": Nothing,
    "recording": Nothing,
}
# What whoever may touch a sandbox may do to it; of the others the caller must be one who may change things.
TOUCHES: dict[str, type[Struct]] = {
    "quarantine_add": AddQuarantine,
    "quarantine_release": EndQuarantine,
    "quarantine_kill": EndQuarantine,
    "kill": KillSandbox,
    "attributes": SetAttributes,
}
CHANGES: dict[str, type[Struct]] = {
    "reload": Because,
    "disarm": Because,
    "arm": Because,
    "acknowledge": Acknowledge,
    "silence_add": AddSilence,
    "silence_remove": RemoveSilence,
    "recording_begin": BeginRecording,
    "recording_end": Because,
}
ALL = READS | TOUCHES | CHANGES


def changes(name: str) -> bool:
    return name not in READS


def decode(name: str, body: bytes) -> Struct:
    """:raises UsageError: which member is wrong and what was expected, in one line."""
    kind = ALL.get(name)
    if kind is None:
        raise UsageError("there is no such operation")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(complaint(error)) from error


def complaint(error: Exception) -> str:
    """What msgspec says, with the patterns told in words."""
    text = str(error).replace("\n", " ")
    if "matching regex" in text:
        at = text.rpartition("at `")[2].rstrip("`") if "at `" in text else "$"
        name = at.removeprefix("$.") or "it"
        return f"{name}: expected one printable line that is not blank" if name == "reason" else f"{name}: not allowed"
    return text[:400]
