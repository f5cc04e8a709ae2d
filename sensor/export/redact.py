"""Secrets in what the sandboxes' processes were called with: hidden on display and export. The log keeps everything.

The text is hostile. Each step looks at each character a bounded number of times, so the time is linear; and what
does not look like a secret is never hidden, or an attacker would put his command where nobody reads it.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any

from sensor.export.secrets import MARK, harmless, sensitive, suspicious
from sensor.export.secretwords import Words

_SPACES = re.compile(r"(\s+)")
_BEGIN = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_END = "-----END "
_BODY = re.compile(r"[A-Za-z0-9+/=]{16,}")
_TAIL = re.compile(r"[A-Za-z0-9+/=]{1,64}$")
_BODY_CHARACTERS = 16384
_DEPTH = 8
# What no sandbox writes, or what is told by it: never looked at.
_OURS = frozenset({
    "v", "kind", "id", "time", "event", "category", "rule", "detection", "action", "mode", "outcome", "ProcessGuid",
    "SandboxClass", "Image", "ParentImage", "EntryImage", "Ja4", "DestinationIp", "SourceIp",
})  # fmt: skip
_ARGUMENTS = frozenset({"Argv", "argv"})


def redact_text(text: str) -> str:
    """A command line, a header, a path: with MARK for each secret in it."""
    if not suspicious(text):
        return text
    if "PRIVATE KEY" in text:
        text = _without_keys(text)
    parts = _SPACES.split(text)
    parts[0::2] = Words(parts[0::2]).redacted()
    return "".join(parts)


def redact_argv(arguments: Sequence[str]) -> list[str]:
    """As `redact_text`, where it is known where each argument ends."""
    if not any(map(suspicious, arguments)):
        return list(arguments)
    return Words(arguments, inner=redact_text).redacted()


def redact(record: dict[str, Any]) -> dict[str, Any]:
    """A line of the log, or anything made of one. The record itself is left as it is; given back where nothing is
    hidden. The bytes of text that was not UTF-8 (`<Field>_b64`) are left out where they hold a secret."""
    if _plain(record):
        return record
    changed: dict[str, Any] = {}
    for name, value in record.items():
        if name in _OURS:
            continue
        new = _value(value, name, _DEPTH)
        if new is not value:
            changed[name] = new
    if not changed:
        return record
    if "Argv" in changed and "CommandLine" in changed and record["CommandLine"] == _joined(record["Argv"]):
        changed["CommandLine"] = _joined(changed["Argv"])  # better than by its words
    left_out = {name for name, new in changed.items() if new is None}
    return {name: changed.get(name, value) for name, value in record.items() if name not in left_out}


def _plain(record: dict[str, Any]) -> bool:
    """Whether it is soon told that nothing is hidden: for most records of a flood, at a tenth of the price."""
    texts: list[str] = []
    for name, value in record.items():
        if name in _OURS:
            continue
        if isinstance(value, str):
            if name.endswith("_b64"):
                return False
            texts.append(value)
        elif isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
            texts += value
        elif isinstance(value, list | tuple | dict):
            return False
    return not suspicious("\n".join(texts))


def _value(value: Any, name: str, depth: int) -> Any:
    """The same object where nothing is hidden; None where the whole is left out."""
    new = value
    if isinstance(value, str):
        raw = name.endswith("_b64")
        new = (None if _hides(value) else value) if raw else redact_text(value)
    elif isinstance(value, dict | list | tuple) and depth == 0:
        return MARK
    elif isinstance(value, dict):
        return _inner(value, depth)
    elif isinstance(value, list | tuple):
        new = _items(value, name, depth)
    return value if new == value else new


def _items(value: Sequence[Any], name: str, depth: int) -> list[Any]:
    if name in _ARGUMENTS and all(isinstance(item, str) for item in value):
        return redact_argv(value)
    return [_value(item, "", depth - 1) for item in value]


def _inner(value: dict[Any, Any], depth: int) -> dict[Any, Any]:
    """A mapping within a record: an environment, labels, a notice's fields. Its own names can announce secrets."""
    made = {}
    for name, item in value.items():
        key = name if isinstance(name, str) else ""
        if isinstance(item, str) and sensitive(key[:64]) and not harmless(key[:64], item[:64]):
            made[name] = MARK
        else:
            made[name] = _value(item, key, depth - 1)
    return value if all(made[name] is item for name, item in value.items()) else made


def _hides(encoded: str) -> bool:
    try:
        whole = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return True
    text = whole.decode("utf-8", "replace")
    arguments = text.split("\0")
    return redact_argv(arguments) != arguments or redact_text(text.replace("\0", " ")) != text.replace("\0", " ")


def _joined(arguments: Any) -> str:
    texts = isinstance(arguments, list) and all(isinstance(item, str) for item in arguments)
    return " ".join(arguments) if texts else ""


def _without_keys(text: str) -> str:
    """Private keys in PEM. Only what can be base64 is hidden between the lines that announce a key, so that these
    lines hide no command."""
    done, out = 0, []
    while begin := _BEGIN.search(text, done):
        limit = begin.end() + _BODY_CHARACTERS
        end = text.find(_END, begin.end(), limit)
        stop = end if end >= 0 else min(limit, len(text))
        body = text[begin.end() : stop]
        kept = len(_stripped(body)) if end >= 0 else 0  # its last line is short; without an end none is known
        tail = _TAIL.sub(MARK, body[max(0, kept - 64) : kept])
        out += [text[done : begin.end()], _BODY.sub(MARK, body[: max(0, kept - 64)] + tail + body[kept:])]
        done = stop
    return "".join([*out, text[done:]])


def _stripped(body: str) -> str:
    """Without line ends at its end, those included that somebody wrote as \\n."""
    body = body.rstrip()
    while body.endswith(("\\n", "\\r")):
        body = body[:-2].rstrip()
    return body
