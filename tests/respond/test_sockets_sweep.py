"""Sockets that were made in one cgroup: found by who holds them, and destroyed."""

from __future__ import annotations

import errno
import os
import socket

from sensor.respond import procfs, sockets_child
from tests.respond.test_sockets import COOKIE, ESTABLISHED, FOUR, SIX, FakeLink, message


def test_of_what_was_made_in_a_cgroup_only_what_is_held_is_destroyed() -> None:
    mine, other = message(FOUR, ESTABLISHED, 77, COOKIE), message(SIX, ESTABLISHED, 78, COOKIE)
    link = FakeLink([0], {FOUR: mine, SIX: other})
    assert sockets_child.sweep(link, {77, 5}, 99) == [("destroyed", "")]
    assert link.asked == [(FOUR, mine.id)]
    assert sockets_child.sweep(FakeLink([], {FOUR: mine, SIX: other}), set(), 99) == []


def test_a_kernel_that_cannot_tell_cgroups_says_so() -> None:
    link = FakeLink([], {FOUR: errno.EINVAL, SIX: errno.EINVAL})
    assert sockets_child.sweep(link, {77}, 99) == [("failed", os.strerror(errno.EINVAL))] * 2


def test_held_are_the_sockets_of_living_processes_and_of_no_later_ones() -> None:
    start = procfs.stat(os.getpid())
    assert start is not None
    with socket.socket() as one:
        inode = os.fstat(one.fileno()).st_ino
        assert inode in sockets_child.held([[os.getpid(), start.start_ticks]])
        assert sockets_child.held([[os.getpid(), start.start_ticks + 1]]) == set()
        assert inode in sockets_child.held([[2**22 - 3, 1], [1, 0], [os.getpid(), start.start_ticks]])
