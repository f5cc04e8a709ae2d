"""The rebuilt stream reads back as exec records, none of which has another's command line."""

from __future__ import annotations

from sensor.events import layouts
from tests.bench.records import RING_HEADER, SANDBOX_ID, Stream, commands, framed


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
    first, second = records(stream.area(7000)), records(stream.area(5000))
    lines = [record.argv for record in (*first, *second)]
    assert len(set(lines)) == 12_000
    recorded = {sum(len(argument.encode()) + 1 for argument in command.argv) for command in commands()}
    assert {len(line) for line in lines} <= recorded
    assert all(record.argv_bytes == len(record.argv) for record in first)


def test_a_record_is_what_the_decoder_expects() -> None:
    record = records(Stream().area(1))[0]
    smallest, read = layouts.READERS[layouts.Type.EXEC]
    assert record.type == layouts.Type.EXEC
    assert record.size >= smallest
    assert record.sandbox_id == SANDBOX_ID
    assert record.image_path.endswith(b"\0")
    assert read is layouts.read_exec


def test_the_birth_is_read_with_its_path() -> None:
    area = Stream().birth(b"/bench/box")
    record = layouts.read_cgroup(area, RING_HEADER.size)
    assert (record.type, record.sandbox_id, record.path) == (layouts.Type.CGROUP_BIRTH, SANDBOX_ID, b"/bench/box")


def test_frames_are_padded_as_the_ring_has_them() -> None:
    assert framed(b"123") == b"\x03\0\0\0\0\0\0\0" + b"123\0\0\0\0\0"
    assert len(framed(b"12345678")) == 16
