"""A recorded stream of exec events, rebuilt as the kernel writes it into the ring.

data/commands.jsonl holds the command lines of real work (a compile, git, pip, shell pipelines, an agent's curl calls),
recorded with strace. Each record here is one of them with a few letters or digits exchanged, so that its length is the
recorded one and no command line ever comes twice."""

from __future__ import annotations

import string
from collections import Counter
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
_START = 10_000_000_000_000  # CLOCK_MONOTONIC of the first record
_BETWEEN = 10_000  # nanoseconds between two records
_PARENTS, _PARENT_COUNT = 1000, 64  # tgids
_CHILDREN, _CHILD_COUNT = 10_000, 60_000
_LASTING = _CHILDREN + _CHILD_COUNT  # pids that never come again: whose processes live on


class Command(Struct, frozen=True):
    filename: str
    image: str
    cwd: str
    argv: tuple[str, ...]


class _Template(Struct, frozen=True):
    """A NUL-separated argv of recorded length, without the letters and digits at `places`, which are `letters`."""

    program: str  # its file's name
    argv: bytes
    places: tuple[int, ...]
    letters: bytes
    filename: bytes
    image_path: bytes
    cwd_path: bytes


def commands() -> list[Command]:
    lines = COMMANDS.read_bytes().splitlines()
    return [msgspec.json.decode(line, type=Command) for line in lines]


class Layout(Struct, frozen=True):
    """How to write what a reader of sensor.events.layouts reads."""

    packed: PackedStruct
    members: tuple[str, ...]
    tails: tuple[str, ...]


def layout_of(packed: PackedStruct, record: type[Struct], *tails: str) -> Layout:
    return Layout(packed, tuple(name for name in record.__struct_fields__ if name not in tails), tails)


_EXEC = layout_of(layouts._PF_EXEC, layouts.Exec, "argv", "filename", "image_path", "cwd_path")
_FORK = layout_of(layouts._PF_FORK, layouts.Fork)
_EXIT = layout_of(layouts._PF_EXIT, layouts.Exit)
_CGROUP = layout_of(layouts._PF_CGROUP, layouts.Cgroup, "path")
# What an ordinary program of an ordinary user shows.
_ORDINARY = {
    "inode": 0x20000, "uid": 1000, "euid": 1000, "egid": 1000, "device": 0x800001, "mode": 0o100755,
    "pid_ns": 0xEFFFFFFC, "mnt_ns": 0xF0000000, "net_ns": 0xF0000001, "user_ns": 0xEFFFFFFD, "cgroup_ns": 0xEFFFFFFB,
}  # fmt: skip


class Who(Struct, frozen=True):
    tgid: int
    start_ns: int
    parent_tgid: int
    parent_start_ns: int
    exec_ns: int


class Lives(Struct, frozen=True):
    """A run of processes as three runs of ring bytes: their forks, their execs, their exits."""

    forks: list[bytes]
    execs: list[bytes]
    exits: list[bytes]
    who: list[Who]

    def whole(self) -> bytes:
        """Fork, exec, exit of one after the other, as a shell's work shows in the ring."""
        return b"".join(record for life in zip(self.forks, self.execs, self.exits, strict=True) for record in life)


class Stream:
    """Processes without end, each of which executes once."""

    def __init__(self) -> None:
        self._templates = [_template(command) for command in commands()]
        self._used: Counter[bytes] = Counter()  # variants given out of each template that differs from the others
        self._letters: dict[bytes, bytes] = {}  # of each template, from which its variants count
        self._next = 0
        self._time_ns = _START

    def birth(self, path: bytes) -> bytes:
        """The record of the sandbox in which everything happens; `path` is the cgroup's, below the mount."""
        return framed(
            packed(_CGROUP, type=layouts.Type.CGROUP_BIRTH, time_ns=_START - 1, tgid=1, tid=1, parent_id=1, path=path)
        )

    def parents(self) -> bytes:
        """Those who fork everything else: real parents are known, too."""
        shells = []
        for number in range(_PARENT_COUNT):
            tgid = _PARENTS + number
            who = Who(tgid, _started(tgid), 1, _started(1), _START)
            shells.append(self._exec(self._templates[0], who))
        return b"".join(map(framed, shells))

    def lives(self, count: int, lasting: bool = False, programs: frozenset[str] = frozenset()) -> Lives:
        """`programs`: of these names alone, where not of all."""
        lives = Lives([], [], [], [])
        templates = [each for each in self._templates if not programs or each.program in programs]
        for number in range(self._next, self._next + count):
            self._time_ns += _BETWEEN
            parent = _PARENTS + number % _PARENT_COUNT
            # Pids come round again, each time with a start time of its own.
            who = Who(
                _LASTING + number if lasting else _CHILDREN + number % _CHILD_COUNT,
                self._time_ns - 300_000,
                parent,
                _started(parent),
                self._time_ns,
            )
            lives.who.append(who)
            lives.forks.append(framed(_fork(who)))
            lives.execs.append(framed(self._exec(templates[number % len(templates)], who)))
            lives.exits.append(framed(_exit(who)))
        self._next += count
        return lives

    def _exec(self, template: _Template, who: Who) -> bytes:
        variant = self._used[template.argv]
        self._used[template.argv] += 1
        argv = _varied(template, self._letters.setdefault(template.argv, template.letters), variant)
        return packed(
            _EXEC,
            **_process(who, layouts.Type.EXEC, who.exec_ns),
            argv=argv,
            argv_bytes=len(argv),
            filename=template.filename,
            image_path=template.image_path,
            cwd_path=template.cwd_path,
            **_ORDINARY,
        )


def _fork(who: Who) -> bytes:
    return packed(_FORK, **_process(who, layouts.Type.FORK, who.start_ns), parent_exec_id=_START)


def _exit(who: Who) -> bytes:
    return packed(_EXIT, **_process(who, layouts.Type.EXIT, who.exec_ns + 1000))


def _process(who: Who, kind: int, time_ns: int) -> dict[str, int]:
    return {
        "type": kind, "time_ns": time_ns, "tgid": who.tgid, "tid": who.tgid, "start_ns": who.start_ns,
        "exec_id": who.start_ns if kind == layouts.Type.FORK else who.exec_ns,
        "parent_tgid": who.parent_tgid, "parent_start_ns": who.parent_start_ns, "parent_sandbox_id": SANDBOX_ID,
    }  # fmt: skip


def packed(layout: Layout, **values: int | bytes) -> bytes:
    """A record of the ring. Members that are not given are zero; `size` and the tails' lengths are computed."""
    tails = [values[name] for name in layout.tails]
    behind = b"".join(tail for tail in tails if isinstance(tail, bytes))
    values |= {"size": layout.packed.size + len(behind), "sandbox_id": SANDBOX_ID, "cgroup_id": SANDBOX_ID}
    lengths = [len(tail) for tail in tails if isinstance(tail, bytes)]
    return layout.packed.pack(*(values.get(name, 0) for name in layout.members), *lengths) + behind


def _started(parent: int) -> int:
    return _START - 1_000_000 + parent


def framed(record: bytes) -> bytes:
    """With the header of the ring buffer, padded to eight bytes as the kernel does."""
    return RING_HEADER.pack(len(record), 0) + record + bytes(-len(record) % 8)


def _template(command: Command) -> _Template:
    argv = bytearray(b"".join(argument.encode() + b"\0" for argument in command.argv))
    places = tuple(at for at in reversed(range(len(argv))) if argv[at] in _ALPHABET)[:_EXCHANGED]
    letters = bytes(argv[place] for place in places)
    for place in places:  # what differs in these alone is one template
        argv[place] = 0
    return _Template(
        command.image.rpartition("/")[2],
        bytes(argv),
        places,
        letters,
        command.filename.encode() + b"\0",
        _leaf_first(command.image),
        _leaf_first(command.cwd),
    )


def _leaf_first(path: str) -> bytes:
    """As the probes walk dentries: upwards, each component ended by NUL."""
    return b"".join(component.encode() + b"\0" for component in reversed(path.split("/")) if component)


def _varied(template: _Template, letters: bytes, number: int) -> bytes:
    """The command itself for 0, and so many further letters on for another number."""
    argv = bytearray(template.argv)
    for place, letter in zip(template.places, letters, strict=True):
        number, digit = divmod(number, len(_ALPHABET))
        argv[place] = _ALPHABET[(_ALPHABET.index(letter) + digit) % len(_ALPHABET)]
    if number:
        raise BenchError(f"{bytes(argv)!r} has too few letters for so many variants")
    return bytes(argv)
