"""The workload's word that its connections stand is waited for, and its silence is told."""

from __future__ import annotations

import subprocess

import pytest

from tests.bench.flowmemory import _report
from tests.bench.harness import BenchError


def started(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_the_report_is_read_while_the_workload_goes_on() -> None:
    with started("""echo '{"count":3,"errno":{"0":3}}'; exec sleep 100""") as process:
        assert _report(process) == {"count": 3, "errno": {"0": 3}}
        assert process.poll() is None
        process.kill()


def test_what_it_said_instead_is_in_the_error() -> None:
    said = "20064 descriptors: Operation not permitted"
    with started(f"echo {said} >&2; exit 1") as process, pytest.raises(BenchError, match=said):
        _report(process)
