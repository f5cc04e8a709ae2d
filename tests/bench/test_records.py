"""The rebuilt stream reads back as exec records, none of which has another's command line."""

from __future__ import annotations

from sensor.events import layouts
from tests.bench.records import RING_HEADER, SANDBOX_ID, Stream, commands, framed


def execs(stream: Stream, count: int) -> bytes:
    return b"".join(stream.lives(count).execs)


def records(area: bytes) -> list[layouts.Exec]:
    found, at = [], 0
    while at < len(area):
        length, _ = RING_HEADER.unpack_from(area, at)
        record = layouts.read_exec(area, at + RING_HEADER.size)
        assert record.size == length
        found.append(record)
        at += RING_HEADER.size + (length + 7) // 8 * 8
    return found


def test_no_command_line_comes_twice_and_lengths_are_the_recorded_ones() -> None:
    stream = Stream()
    first, second = records(execs(stream, 7000)), records(execs(stream, 5000))
    lines = [record.argv for record in (*first, *second)]
    assert len(set(lines)) == 12_000
    recorded = {sum(len(argument.encode()) + 1 for argument in command.argv) for command in commands()}
    assert {len(line) for line in lines} <= recorded
    assert all(record.argv_bytes == len(record.argv) for record in first)


def test_a_record_is_what_the_decoder_expects() -> None:
    record = records(execs(Stream(), 1))[0]
    smallest, read = layouts.READERS[layouts.Type.EXEC]
    assert record.type == layouts.Type.EXEC
    assert record.size >= smallest
    assert record.sandbox_id == SANDBOX_ID
    assert record.image_path.endswith(b"\0")
    assert read is layouts.read_exec


def test_a_life_is_one_process_from_fork_to_exit() -> None:
    lives = Stream().lives(3)
    fork = layouts.read_fork(lives.forks[1], RING_HEADER.size)
    executed = layouts.read_exec(lives.execs[1], RING_HEADER.size)
    ended = layouts.read_exit(lives.exits[1], RING_HEADER.size)
    assert (fork.type, executed.type, ended.type) == (layouts.Type.FORK, layouts.Type.EXEC, layouts.Type.EXIT)
    assert fork.tgid == executed.tgid == ended.tgid
    assert fork.start_ns == executed.start_ns == ended.start_ns
    assert (fork.parent_tgid, fork.parent_start_ns) == (executed.parent_tgid, executed.parent_start_ns)
    assert fork.time_ns < executed.time_ns < ended.time_ns
    assert lives.whole().startswith(lives.forks[0] + lives.execs[0] + lives.exits[0] + lives.forks[1])


def test_the_birth_is_read_with_its_path() -> None:
    area = Stream().birth(b"/bench/box")
    record = layouts.read_cgroup(area, RING_HEADER.size)
    assert (record.type, record.sandbox_id, record.path) == (layouts.Type.CGROUP_BIRTH, SANDBOX_ID, b"/bench/box")


def test_frames_are_padded_as_the_ring_has_them() -> None:
    assert framed(b"123") == b"\x03\0\0\0\0\0\0\0" + b"123\0\0\0\0\0"
    assert len(framed(b"12345678")) == 16


def test_lives_can_be_of_some_programs_alone() -> None:
    area = b"".join(Stream().lives(600, programs=frozenset({"curl", "git"})).execs)
    images = {record.image_path.split(b"\0")[0] for record in records(area)}
    assert images == {b"curl", b"git"}
