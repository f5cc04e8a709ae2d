"""DNS messages (RFC 1035) over UDP and TCP; mDNS and LLMNR have the same shape.

`dissect` looks at the first question only; `parse` gives what a table of names and addresses needs.
Both are strict: a sandbox's other datagrams must not pass for DNS, nor fill that table.
"""

from __future__ import annotations

import struct
from socket import AF_INET, AF_INET6, inet_ntop

from msgspec import Struct

from sensor.enrich.protocols.memo import Memo
from sensor.enrich.protocols.result import TEXT_MAX, Found

QUESTIONS_MAX = 16
ANSWERS_MAX = 64
POINTERS_MAX = 16
LABELS_MAX = 1024  # of a message's answers: two bytes may point to 127 labels, each time
NAME_MAX = 255  # bytes in the message, lengths and root included (RFC 1035, 3.1)
CAPTURED = 512  # no capture cuts a datagram shorter, so below that all records must have room
CACHED = 1024
CACHED_BYTES = 1 << 17

_HEADER = struct.Struct("!6H")
_ENTRY = struct.Struct("!HH")
_RECORD = struct.Struct("!HHIH")
_RESPONSE, _AUTHORITATIVE, _TRUNCATED, _RECURSION, _AVAILABLE, _ZERO = 0x8000, 0x400, 0x200, 0x100, 0x80, 0x40
_UPDATE = 5  # the highest opcode but for DSO (6), which is over TLS
_CLASSES = frozenset((1, 3, 4, 254, 255))  # IN, CH, HS, NONE, ANY
_TOP = 0x8000  # mDNS: "answer by unicast" in a question, "flush the cache" in an answer (RFC 6762, 18.12)

_A, _NS, _CNAME, _PTR, _MX, _TXT, _AAAA, _DNAME, _OPT = 1, 2, 5, 12, 15, 16, 28, 39, 41
_NAMED = frozenset((_NS, _CNAME, _PTR, _DNAME))
_TYPES = {
    **{_A: "A", _NS: "NS", _CNAME: "CNAME", 6: "SOA", 10: "NULL", _PTR: "PTR", 13: "HINFO", _MX: "MX", _TXT: "TXT"},
    **{17: "RP", 24: "SIG", 25: "KEY", _AAAA: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 37: "CERT", _DNAME: "DNAME"},
    **{_OPT: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG", 47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM"},
    **{52: "TLSA", 61: "OPENPGPKEY", 64: "SVCB", 65: "HTTPS", 99: "SPF", 249: "TKEY", 250: "TSIG", 251: "IXFR"},
    **{252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA"},
}
_PLAIN = bytes(byte for byte in range(0x21, 0x7F) if byte not in b".\\")
_ESCAPED = [chr(b) if b in _PLAIN else f"\\{chr(b)}" if b in b".\\" else f"\\{b:03d}" for b in range(256)]
# By all of a header but the id, and the first question; with the least size of such a message. Programs ask the same
# again and again, and are answered by other addresses to the same question.
_known: Memo[bytes, tuple[Found, int]] = Memo(CACHED, CACHED_BYTES)


class Question(Struct, frozen=True, gc=False):
    name: str  # lower case, without the last dot; "." is the root; what is not printable as `\032`
    type: str
    class_: int


class Answer(Struct, frozen=True, gc=False):
    name: str
    type: str
    ttl: int  # seconds
    data: str  # an address, a name, or the content as text or hex, at most TEXT_MAX characters
    size: int  # bytes of the record's content


class Message(Struct, frozen=True, gc=False):
    id: int
    response: bool
    opcode: int
    rcode: int
    truncated: bool
    authoritative: bool
    recursion_desired: bool
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    wire_size: int  # bytes of the whole message, without the length that TCP puts before it
    cut: bool  # not all questions and answers are here: too many, or beyond the end of what was captured


def dissect(data: bytes, udp: bool) -> Found | None:
    if not udp:
        message = _of_stream(data)
        return None if message is None else _found(message[0], message[1], b"")
    size = len(data)
    key = data[2 : data.find(b"\0", _HEADER.size) + 5]  # a name ends with a zero, then come type and class
    known = _known.get(key)
    if known is not None and size >= known[1]:
        return known[0]
    return _found(data, size, key)


def _of_stream(data: bytes) -> tuple[bytes, int] | None:
    """The first message over TCP, perhaps cut, and its length."""
    if len(data) < 2 + _HEADER.size:
        return None
    size = data[0] << 8 | data[1]
    return (data[2 : 2 + size], size) if size >= _HEADER.size else None


def _found(data: bytes, size: int, key: bytes) -> Found | None:
    """`key`: under which to keep it, b"" for not at all."""
    header = _header(data, size)
    if header is None:
        return None
    flags = header[1]
    role, kind = ("server", "response") if flags & _RESPONSE else ("client", "query")
    if not header[2]:
        # An answer without a question: mDNS, or an error. All that is there must be DNS.
        message = _message(data, size, header)
        return None if message is None else Found("dns", role, kind)
    question = _question(data, _HEADER.size)
    if question is None:
        return None
    found = Found("dns", role, kind, server_name=question[0].name[:TEXT_MAX], method=question[0].type)
    # Not if a zero within a label was taken for the name's end, nor what depends on the id.
    if question[1] == 2 + len(key) and (flags & _RESPONSE or not header[3]):
        _known.keep(key, (found, min(_least(header), CAPTURED)), len(key))
    return found


def _least(header: tuple[int, ...]) -> int:
    """Bytes of a message: a question takes 5 at least, a record 11."""
    return _HEADER.size + 5 * header[2] + 11 * (header[3] + header[4] + header[5])


def parse(data: bytes, udp: bool) -> Message | None:
    """One message: a datagram, or the first of a TCP stream. None if it is not DNS."""
    size = len(data)
    if not udp:
        message = _of_stream(data)
        if message is None:
            return None
        data, size = message
    header = _header(data, size)
    return None if header is None else _message(data, size, header)


def _header(data: bytes, size: int) -> tuple[int, ...] | None:
    """id, flags and four counts, if they make sense together."""
    if len(data) < _HEADER.size:
        return None
    header = _HEADER.unpack_from(data)
    number, flags, questions, answers, _, _ = header
    if flags >> 11 & 15 > _UPDATE or flags & _ZERO or questions > QUESTIONS_MAX:
        return None
    if flags & _RESPONSE:
        if not questions and not answers and size != _HEADER.size:
            return None
    # No query has an error, offers recursion, or asks nothing. With answers, it is mDNS, whose id is 0.
    elif flags & (_AVAILABLE | 15) or not questions or (answers and number and not flags >> 11 & 15):
        return None
    room = size if size < CAPTURED or size > len(data) else 0xFFFF
    return header if _least(header) <= room else None


def _message(data: bytes, size: int, header: tuple[int, ...]) -> Message | None:
    number, flags, question_count, answer_count, _, _ = header
    questions: list[Question] = []
    at = _HEADER.size
    for _ in range(question_count):
        question = _question(data, at)
        if question is None:
            break
        questions.append(question[0])
        at = question[1]
    if question_count and not questions:
        return None
    answers: list[Answer] = []
    labels = 0
    if len(questions) == question_count:
        for _ in range(min(answer_count, ANSWERS_MAX)):
            answer = _answer(data, at)
            if answer is None:
                break
            answers.append(answer[0])
            at = answer[1]
            labels += answer[0].name.count(".") + answer[0].data.count(".")
            if labels > LABELS_MAX:
                break
    if not question_count and answer_count and not answers:
        return None
    return Message(
        number,
        bool(flags & _RESPONSE),
        flags >> 11 & 15,
        flags & 15,
        bool(flags & _TRUNCATED),
        bool(flags & _AUTHORITATIVE),
        bool(flags & _RECURSION),
        tuple(questions),
        tuple(answers),
        size,
        len(questions) < question_count or len(answers) < answer_count,
    )


def _question(data: bytes, at: int) -> tuple[Question, int] | None:
    named = _name(data, at)
    if named is None or named[1] + 4 > len(data):
        return None
    name, at = named
    kind, class_ = _ENTRY.unpack_from(data, at)
    if not kind or class_ & ~_TOP not in _CLASSES:
        return None
    return Question(name, _type(kind), class_), at + 4


def _answer(data: bytes, at: int) -> tuple[Answer, int] | None:
    named = _name(data, at)
    if named is None or named[1] + _RECORD.size > len(data):
        return None
    name, at = named
    kind, class_, ttl, size = _RECORD.unpack_from(data, at)
    at += _RECORD.size
    # EDNS keeps a size where others have their class (RFC 6891, 6.1.2).
    if not kind or at + size > len(data) or (class_ & ~_TOP not in _CLASSES and kind != _OPT):
        return None
    # The highest bit is no part of a TTL (RFC 2181, 8).
    return Answer(name, _type(kind), ttl if ttl < 1 << 31 else 0, _content(data, at, size, kind), size), at + size


def _type(kind: int) -> str:
    return _TYPES.get(kind) or f"TYPE{kind}"


def _content(data: bytes, at: int, size: int, kind: int) -> str:
    if kind == _A and size == 4:
        return inet_ntop(AF_INET, data[at : at + 4])
    if kind == _AAAA and size == 16:
        return inet_ntop(AF_INET6, data[at : at + 16])
    if kind in _NAMED or (kind == _MX and size > 2):
        start = at + 2 if kind == _MX else at
        named = _name(data, start)
        if named is not None and named[1] == at + size:
            return named[0][:TEXT_MAX]
    raw = _strings(data[at : at + size]) if kind == _TXT else data[at : at + min(size, TEXT_MAX)]
    if raw and raw.isascii() and (said := raw.decode("ascii")[:TEXT_MAX]).isprintable():
        return said
    return raw[: TEXT_MAX // 2].hex()


def _strings(content: bytes) -> bytes:
    """The character strings of a TXT record, one after the other."""
    said = bytearray()
    at = 0
    while at < len(content) and len(said) < TEXT_MAX:
        said += content[at + 1 : at + 1 + content[at]]
        at += 1 + content[at]
    return bytes(said)


def _name(data: bytes, at: int) -> tuple[str, int] | None:
    """A name and where it ends. Pointers go back only, so no name can turn in circles."""
    labels: list[bytes] = []
    total, pointers, end, before = 1, 0, -1, at
    size = len(data)
    while at < size:
        length = data[at]
        if not length:
            return _text(labels), at + 1 if end < 0 else end
        if length < 0x40:
            total += length + 1
            label = data[at + 1 : at + 1 + length]
            if total > NAME_MAX or len(label) < length:
                return None
            labels.append(label)
            at += 1 + length
            continue
        if length < 0xC0 or at + 1 >= size:
            return None
        if end < 0:
            end = at + 2
        at = (length & 0x3F) << 8 | data[at + 1]
        pointers += 1
        if pointers > POINTERS_MAX or at >= before or at < _HEADER.size:
            return None
        before = at
    return None


def _text(labels: list[bytes]) -> str:
    if not b"".join(labels).translate(None, _PLAIN):
        return b".".join(labels).lower().decode("ascii") or "."
    return ".".join("".join(_ESCAPED[byte] for byte in label.lower()) for label in labels)


def addresses_of(message: Message) -> list[tuple[str, str, int]]:
    """(name asked, address, seconds to live) of each address that a question leads to by this message's CNAMEs.

    What no question leads to is left out: it may be an attempt to give a stranger's address a known
    name. The time is the shortest on the way.
    """
    if not message.response:
        return []
    aliases: dict[str, list[Answer]] = {}
    for answer in message.answers:
        if answer.type == "CNAME":
            aliases.setdefault(answer.name, []).append(answer)
    found: list[tuple[str, str, int]] = []
    for asked in dict.fromkeys(question.name for question in message.questions):
        reached = _reached(asked, aliases)
        for answer in message.answers:
            if answer.type in ("A", "AAAA") and answer.name in reached and answer.size in (4, 16):
                found.append((asked, answer.data, min(answer.ttl, reached[answer.name])))
    return found


def _reached(asked: str, aliases: dict[str, list[Answer]]) -> dict[str, int]:
    """The names that `asked` leads to, itself included, each with the shortest time to live on the way."""
    reached = {asked: 0xFFFFFFFF}
    ahead = [asked]
    while ahead:
        name = ahead.pop()
        for alias in aliases.get(name, ()):
            if alias.data not in reached:
                reached[alias.data] = min(reached[name], alias.ttl)
                ahead.append(alias.data)
    return reached
