"""First bytes from segments in any order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sensor.enrich.reassembly import FIRST_BYTES, PIECES_MAX, Beginning


@given(st.binary(min_size=1, max_size=600), st.data())
def test_every_order_gives_the_beginning(stream: bytes, data: st.DataObject) -> None:
    """However it is cut, in whatever order it comes, with some of it twice and some overlapping."""
    cuts = sorted({0, len(stream), *data.draw(st.lists(st.integers(0, len(stream)), max_size=PIECES_MAX - 2))})
    pieces = [(begin, stream[begin:end]) for begin, end in pairwise(cuts)]
    again = data.draw(st.lists(st.sampled_from(pieces), max_size=3))
    beginning = Beginning()
    for offset, piece in data.draw(st.permutations(pieces)):
        beginning.add(offset, piece)
    for offset, piece in again:
        assert not beginning.add(offset, piece)
    assert beginning.data == stream
    assert beginning.later == ()


def test_what_a_retransmit_changes_is_not_believed() -> None:
    """A sandbox's raw socket may send the same numbers with other bytes."""
    beginning = Beginning()
    assert beginning.add(0, b"SSH-2.0-")
    assert beginning.add(4, b"XXXXtail")
    assert beginning.data == b"SSH-2.0-tail"


def test_a_hole_is_waited_for_and_bounded() -> None:
    beginning = Beginning()
    for number in range(1, 100):
        assert not beginning.add(number * 8, bytes(8))
    assert len(beginning.later) == PIECES_MAX
    assert beginning.add(0, b"12345678")
    assert len(beginning.data) == 8 + 8 * PIECES_MAX


def test_no_more_is_kept_than_dissectors_want() -> None:
    beginning = Beginning()
    assert beginning.add(0, bytes(FIRST_BYTES + 1000))
    assert not beginning.add(FIRST_BYTES + 1000, b"x")
    assert len(beginning.data) == FIRST_BYTES


def test_far_pieces_crowd_out_no_near_ones() -> None:
    beginning = Beginning()
    for number in range(2 * PIECES_MAX):
        beginning.add(2000 + number, b"x")
        beginning.add(2000, b"x")
    assert not beginning.add(4, b"2.0-")
    assert beginning.add(0, b"SSH-")
    assert beginning.data == b"SSH-2.0-"
