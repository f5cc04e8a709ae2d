"""A recorded stream of exec events, rebuilt as the kernel writes it into the ring.

data/commands.jsonl holds the command lines of real work (a compile, git, pip, shell pipelines, an agent's curl calls),
recorded with strace. Each record here is one of them with a few letters or digits exchanged, so that its length is the
recorded one and no command line ever comes twice."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from struct import Struct as PackedStruct

import msgspec
from msgspec import Struct

from sensor.events import layouts
from tests.bench.harness import BenchError

COMMANDS = Path(__file__).with_name("data") / "commands.jsonl"
SANDBOX_ID = 0xBE9C
RING_HEADER = PackedStruct("<II")  # length, page offset: struct bpf_ringbuf_hdr
_ALPHABET = (string.digits + string.ascii_letters).encode()
_EXCHANGED = 5  # letters and digits of each command line, counted from its end
# struct pf_exec, with the lengths of its four tails; the layout test pins it to the C header.
_EXEC = PackedStruct("<HHIQQQIIQQQQQIIIIIIIIIIIIHHHH")
_CGROUP = PackedStruct("<HHIQQQIIQQIH2x")
_START = 10_000_000_000_000  # CLOCK_MONOTONIC of the first record
_BETWEEN = 10_000  # nanoseconds between two records
_PARENTS, _PARENT_COUNT = 1000, 64  # tgids
_CHILDREN, _CHILD_COUNT = 10_000, 20_000


class Command(Struct, frozen=True):
    filename: str
    image: str
    cwd: str
    argv: tuple[str, ...]


class _Template(Struct, frozen=True):
    """A NUL-separated argv of recorded length, and where in it a number goes, a letter or digit each."""

    argv: bytes
    places: tuple[int, ...]
    filename: bytes
    image_path: bytes
    cwd_path: bytes


def commands() -> list[Command]:
    lines = COMMANDS.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Command) for line in lines]


class Stream:
    """Execs without end. `area` gives the next ones as one run of ring bytes."""

    def __init__(self) -> None:
        self._templates = [_template(command) for command in commands()]
        self._used: Counter[bytes] = Counter()  # variants given out of each template that differs from the others
        self._next = 0
        self._time_ns = _START

    def birth(self, path: bytes) -> bytes:
        """The record of the sandbox in which everything happens; `path` is the cgroup's, below the mount."""
        size = layouts.READERS[layouts.Type.CGROUP_BIRTH][0] + len(path)
        fixed = _CGROUP.pack(
            layouts.Type.CGROUP_BIRTH, 0, size, _START - 1, SANDBOX_ID, SANDBOX_ID, 1, 1, 1, 1, 0, len(path)
        )  # fmt: skip
        return framed(fixed + path)

    def parents(self) -> bytes:
        """Those who execute everything else: real parents are known, too."""
        shells = (self._exec(self._templates[0], _PARENTS + number, number) for number in range(_PARENT_COUNT))
        return b"".join(map(framed, shells))

    def area(self, count: int) -> bytes:
        return b"".join(framed(record) for record in self._records(count))

    def _records(self, count: int) -> Iterator[bytes]:
        templates = self._templates
        for number in range(self._next, self._next + count):
            self._time_ns += _BETWEEN
            # Pids come round again, each time with a start time of its own.
            yield self._exec(templates[number % len(templates)], _CHILDREN + number % _CHILD_COUNT, number)
        self._next += count

    def _exec(self, template: _Template, tgid: int, number: int) -> bytes:
        variant = self._used[template.argv]
        self._used[template.argv] += 1
        argv = _varied(template, variant)
        child = tgid >= _CHILDREN
        now = self._time_ns if child else _START
        start = now - 300_000 if child else _started(tgid)
        parent = _PARENTS + number % _PARENT_COUNT if child else 1
        tails = (argv, template.filename, template.image_path, template.cwd_path)
        size = _EXEC.size + sum(map(len, tails))
        fixed = _EXEC.pack(
            layouts.Type.EXEC, 0, size, now, SANDBOX_ID, SANDBOX_ID, tgid, tgid, now,
            start, _started(parent), 0x20000 + number % 600, len(argv), parent, 1000, 1000, 1000,
            0x800001, 0o100755, 0, 0xEFFFFFFC, 0xF0000000, 0xF0000001, 0xEFFFFFFD, 0xEFFFFFFB,
            *map(len, tails),
        )  # fmt: skip
        return b"".join((fixed, *tails))


def _started(parent: int) -> int:
    return _START - 1_000_000 + parent


def framed(record: bytes) -> bytes:
    """With the header of the ring buffer, padded to eight bytes as the kernel does."""
    return RING_HEADER.pack(len(record), 0) + record + bytes(-len(record) % 8)


def _template(command: Command) -> _Template:
    argv = bytearray(b"".join(argument.encode() + b"\0" for argument in command.argv))
    places = tuple(at for at in reversed(range(len(argv))) if argv[at] in _ALPHABET)[:_EXCHANGED]
    for place in places:  # what differs in these alone is one template
        argv[place] = _ALPHABET[0]
    return _Template(
        bytes(argv), places, command.filename.encode() + b"\0", _leaf_first(command.image), _leaf_first(command.cwd)
    )


def _leaf_first(path: str) -> bytes:
    """As the probes walk dentries: upwards, each component ended by NUL."""
    return b"".join(component.encode() + b"\0" for component in reversed(path.split("/")) if component)


def _varied(template: _Template, number: int) -> bytes:
    argv = bytearray(template.argv)
    for place in template.places:
        number, digit = divmod(number, len(_ALPHABET))
        argv[place] = _ALPHABET[digit]
    if number:
        raise BenchError(f"{bytes(argv)!r} has too few letters for so many variants")
    return bytes(argv)
