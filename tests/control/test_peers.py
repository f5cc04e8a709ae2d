from __future__ import annotations

import os
import signal
import subprocess
import tempfile

import pytest

from sensor.control.peers import SANDBOXED, UNVERIFIED, refusal
from sensor.respond import procfs
from tests.respond.host import running, sleeper


def nobody(_tgid: int, _path: str) -> bool:
    return False


def test_the_question_is_put_with_the_kernels_facts() -> None:
    asked: list[tuple[int, str]] = []

    def sandboxed(tgid: int, path: str) -> bool:
        asked.append((tgid, path))
        return len(asked) > 1

    with running(*sleeper()) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            assert refusal(process.pid, pidfd, sandboxed) == ""
            assert refusal(process.pid, pidfd, sandboxed) == SANDBOXED
        finally:
            os.close(pidfd)
        assert asked == [(process.pid, procfs.cgroup(process.pid))] * 2


@pytest.mark.parametrize("tgid", [0, -1])
def test_a_peer_of_a_foreign_pid_namespace_is_refused(tgid: int) -> None:
    own = os.pidfd_open(os.getpid())
    try:
        assert refusal(tgid, own, nobody) == UNVERIFIED
    finally:
        os.close(own)


def test_a_peer_that_ended_is_refused() -> None:
    process = subprocess.Popen(["sleep", "300"])
    pidfd = os.pidfd_open(process.pid)
    try:
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert refusal(process.pid, pidfd, nobody) == UNVERIFIED  # a zombie: its number is not free yet
        process.wait()
        assert refusal(process.pid, pidfd, nobody) == UNVERIFIED
    finally:
        os.close(pidfd)


def test_a_descriptor_that_is_no_pidfd_or_anothers_is_refused() -> None:
    with running(*sleeper()) as one, tempfile.TemporaryFile() as file:
        assert refusal(one.pid, file.fileno(), nobody) == UNVERIFIED
        other = os.pidfd_open(os.getpid())
        try:
            assert refusal(one.pid, other, nobody) == UNVERIFIED
        finally:
            os.close(other)
