"""The words of one command line, each looked at with what stands before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from sensor.export.secrets import (
    GLUED,
    LOGINS,
    MARK,
    NAME_CHARACTERS,
    NEXT,
    PREFIX,
    PROGRAMS,
    SCHEMES,
    Options,
    harmless,
    sensitive,
    token_at,
)

_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_QUOTES = "\"'"
_BEFORE_COLON = frozenset("\"'{[(,&?-\\")
_SEPARATOR = re.compile("[=:]")
_OPENING = re.compile(r"[=:>]?[\\]{0,3}[\"']?")
_AUTHORITY = re.compile(r"[^/?#\s\"'<>|]*")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}[A-Za-z0-9_.-]*")
_ASSIGNED = re.compile(r"-{0,2}([A-Za-z0-9_.-]{1,64})=")
_ENDS_VALUE = "&;|\"'"  # a query's next field, a shell's next command
_SHELL = re.compile(r"[;|&<>`\n]|\$[({]")
_QUOTED_WORDS = 8  # that one quoted value may have: an open quote hides no more than one word
_LEAST_BEARER = 16
_LEAST_USER = 20
_ENDS_COMMAND = frozenset({";", "|", "||", "&&", "&", "do", "then"})


class Words:
    """`inner`: for words that are whole arguments, and may have a text of several words in them."""

    def __init__(self, words: Sequence[str], inner: Callable[[str], str] | None = None) -> None:
        self._words = words
        self._inner = inner
        self._at = 0
        self._announced = ""  # the name whose value comes next
        self._by_option = False
        self._part = ""  # what of that value is secret: all of it, or what stands behind this character
        self._options: Options = {}
        self._login: Options = {}

    def redacted(self) -> list[str]:
        out: list[str] = []
        while self._at < len(self._words):
            word = self._words[self._at]
            self._at += 1
            if self._announced and word:
                shown = self._awaited(word)
                if shown is not None:
                    out += shown
                    continue
            out.append(self._word(word))
        return out

    def _awaited(self, word: str) -> list[str] | None:
        """A value that was announced, in as many words as it has; None: the word is no value."""
        name, self._announced = self._announced, ""
        bare = word.strip(_QUOTES)
        if self._by_option and bare.startswith("-") and len(bare) > 1:
            return None
        scheme = name in ("authorization", "bearer") and bare.lower().rstrip(":") in SCHEMES
        if scheme or word in ("=", ":", ":=", "=>"):
            self._announced = name
            return [word]
        if self._part:
            part, self._part = self._part, ""
            return [_behind(word, part)]
        if harmless(name, word[:NAME_CHARACTERS]) or (name == "bearer" and len(bare) < _LEAST_BEARER):
            return None
        if name in ("cookie", "set-cookie") and word.endswith(";"):
            self._announced, self._by_option = name, False
        return self._value(word)

    def _value(self, word: str) -> list[str]:
        quote = word[0] if word[0] in _QUOTES else ""
        if self._inner is not None or not quote or quote in word[1:]:
            return [_hidden(word)]
        ahead = self._words[self._at : self._at + _QUOTED_WORDS]
        length = next((index for index, other in enumerate(ahead, 1) if quote in other), 0)
        self._at += length
        return [quote + MARK, *[MARK] * (length - 1), *[_hidden(last) for last in ahead[length - 1 : length]]]

    def _word(self, word: str) -> str:
        bare = word.strip("\"'();")
        if self._inner is None and (word in _ENDS_COMMAND or word.endswith(";")):
            self._options = self._login = {}
        self._programs(bare)
        if bare.startswith("-"):
            if (shown := self._option(word, bare)) is not None:
                return shown
        elif self._inner is None and word != "" and self._next_is_separator() and sensitive(bare[:NAME_CHARACTERS]):
            self._announce(bare)
        match = _ASSIGNED.match(word) if self._inner is not None else None
        if match and sensitive(match[1]) and not _SHELL.search(word):  # else it may be a script that begins so
            value = word[match.end() : match.end() + NAME_CHARACTERS]
            return word if harmless(match[1], value) else match[0] + MARK
        if self._inner is not None and any(map(str.isspace, word)):
            return self._inner(word)
        if bare.lower() == "bearer":
            self._announce("bearer")
        word, announced = assigned(userinfo(word))
        if announced:
            self._announce(announced)
        return tokens(word)

    def _next_is_separator(self) -> bool:
        return self._at < len(self._words) and self._words[self._at] in ("=", ":", ":=", "=>")

    def _programs(self, bare: str) -> None:
        if not bare or bare[0] == "-" or len(bare) > 4096 or "://" in bare:
            return
        program = bare.rpartition("/")[2]
        if program in PROGRAMS:
            self._options, self._login = PROGRAMS[program], {}
        elif program in LOGINS:
            self._options, self._login = {}, LOGINS[program]
        elif bare == "login" and self._login:
            self._options = self._login

    def _option(self, word: str, bare: str) -> str | None:
        """The word, where it has a glued value to be hidden. What it announces is remembered."""
        if bare in self._options and self._options[bare][0] != GLUED:
            self._announce("password", by_option=True, part=self._options[bare][1])
            return word
        short = bare[:2]
        if short in self._options and len(bare) > 2 and bare[2] != "-" and self._options[short][0] != NEXT:
            at = word.index(short) + 2
            return word[:at] + _behind(word[at:], self._options[short][1])
        name = bare.lstrip("-")
        if name and len(name) <= NAME_CHARACTERS and "=" not in name and ":" not in name and sensitive(name):
            self._announce(name, by_option=True)
            return word
        return None

    def _announce(self, name: str, *, by_option: bool = False, part: str = "") -> None:
        name = name.lower()
        self._announced = "authorization" if name == "proxy-authorization" else name
        self._by_option, self._part = by_option, part


def _hidden(word: str) -> str:
    """Quotes and brackets around a value stay."""
    head = word[0] if word[0] in _QUOTES else ""
    tail = word[len(word.rstrip("\"');,}]")) :][:4] if len(word) > 1 else ""
    return head + MARK + tail


def _behind(word: str, part: str) -> str:
    """`user:secret` with its second half hidden; the whole, where no part is named."""
    if not part:
        return MARK
    before, found, secret = word.partition(part)
    return before + found + _hidden(secret) if secret else word


def userinfo(word: str) -> str:
    """`scheme://user:secret@host`, and `scheme://secret@host` where the user is as long as a token."""
    if "://" not in word:
        return word
    done, out = 0, []
    at = word.find("://")
    while at >= 0:
        start = at + 3
        match = _AUTHORITY.match(word, start)
        authority = match[0] if match else ""
        who, found, _ = authority.rpartition("@")
        user, colon, secret = who.partition(":")
        if found and colon and secret.strip(MARK[0]):
            out += [word[done:start], user, ":", MARK]
            done = start + len(who)
        elif found and not colon and len(user) >= _LEAST_USER:
            out += [word[done:start], MARK]
            done = start + len(who)
        at = word.find("://", max(start, start + len(authority) - 1))  # an authority can end with the next one's colon
    return "".join([*out, word[done:]])


def assigned(word: str) -> tuple[str, str]:
    """`NAME=secret`, `"name": "secret"`, `name: secret`, within one word; and the name at its end whose value is the
    next word."""
    done, out = 0, list[str]()
    ends = _Ends(word)
    for match in _SEPARATOR.finditer(word):
        at = match.start()
        if at < done:
            continue
        name = _name_before(word, at, match[0])
        if not name or not sensitive(name):
            continue
        opening = _OPENING.match(word, at + 1)
        start = opening.end() if opening else at + 1
        if start >= len(word):
            return "".join([*out, word[done:]]), name
        quote = word[start - 1] if word[start - 1] in _QUOTES else ""
        end = ends.of(quote, start)
        if (match[0] == ":" and word.startswith("//", start)) or harmless(name, word[start : min(end, start + 64)]):
            continue
        out += [word[done:start], MARK]
        done = end
    return "".join([*out, word[done:]]), ""


class _Ends:
    """Where a value ends. Positions only grow, so each character is searched once for each mark."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._bare = len(word) - len(word.rstrip("\"')}],;"))
        self._next: dict[str, int] = {}

    def of(self, quote: str, start: int) -> int:
        if quote:
            return self._find(quote, start)
        end = min(self._find(mark, start) for mark in _ENDS_VALUE)
        return max(min(end, len(self._word) - self._bare), start + 1)

    def _find(self, mark: str, start: int) -> int:
        known = self._next.get(mark, -1)
        if known < start:
            known = self._word.find(mark, start)
            known = self._next[mark] = len(self._word) if known < 0 else known
        return known


def _name_before(word: str, at: int, separator: str) -> str:
    end = at
    while end > 0 and at - end < 4 and word[end - 1] in "\"'\\]":
        end -= 1
    start = end
    while start > 0 and end - start < NAME_CHARACTERS and word[start - 1] in _NAME:
        start -= 1
    if separator == ":" and ((start and word[start - 1] not in _BEFORE_COLON) or word[at + 1 : at + 2] == ":"):
        return ""
    return word[start:end].strip("-.")


def tokens(word: str) -> str:
    """Tokens that their form betrays, wherever they stand."""
    done, out = 0, []
    for match in PREFIX.finditer(word):
        if match.start() >= done and (end := token_at(word, match.start(), match[0])):
            out += [word[done : match.start()], MARK]
            done = end
    word = "".join([*out, word[done:]])
    return jwts(word) if "eyJ" in word else word


def jwts(word: str) -> str:
    """Looked for where a run of base64 begins, so that each run is looked at three times at most."""
    done, out = 0, []
    at = word.find("eyJ")
    while at >= 0:
        end = at + 3
        if not (at and (word[at - 1].isalnum() or word[at - 1] in "_-")) and (match := _JWT.match(word, at)):
            out += [word[done:at], MARK]
            done = end = match.end()
        at = word.find("eyJ", end)
    return "".join([*out, word[done:]])
