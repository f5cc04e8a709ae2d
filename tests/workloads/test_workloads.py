"""The workloads do what they say, unwatched and as any user."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.build import build, programs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("workloads"))


def run(folder: Path, name: str, *arguments: str, status: int = 0) -> dict[str, Any]:
    result = subprocess.run([str(folder / name), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == status, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_every_source_becomes_a_program(folder: Path) -> None:
    assert sorted(entry.name for entry in folder.iterdir()) == programs()


def test_a_second_build_compiles_nothing(folder: Path) -> None:
    before = (folder / "execloop").stat().st_mtime_ns
    assert build(folder.parent) == folder
    assert (folder / "execloop").stat().st_mtime_ns == before


def test_execloop_counts_what_it_ran(folder: Path) -> None:
    report = run(folder, "execloop", "-n", "30")
    assert report["count"] == 30
    assert report["errno"] == {"0": 30}
    assert 0 < report["least_ns"] <= report["ns"]


def test_execloop_says_why_nothing_ran(folder: Path) -> None:
    report = run(folder, "execloop", "-n", "3", "/nonexistent", status=1)
    assert report["errno"] == {"2": 3}


@pytest.mark.parametrize(
    ("arguments", "errno"),
    [
        ((), "111"),
        (("-u",), "0"),
        (("-s",), "0"),
        (("-a", "::1"), "111"),
        (("-l", "-p", "21200"), "0"),
    ],
)
def test_connectloop_reports_outcomes(folder: Path, arguments: tuple[str, ...], errno: str) -> None:
    report = run(folder, "connectloop", "-n", "40", *arguments)
    assert report["errno"] == {errno: 40}


def test_openloop_reports_outcomes(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "openloop", "-n", "40", "/dev/null")["errno"] == {"0": 40}
    assert run(folder, "openloop", "-n", "40", str(tmp_path / "absent"))["errno"] == {"2": 40}


@pytest.mark.parametrize("options", [(), ("-g",)])
def test_callloop_counts_its_calls(folder: Path, options: tuple[str, ...]) -> None:
    assert run(folder, "callloop", "-n", "40", *options)["errno"] == {"0": 40}


def test_callloop_writes(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "callloop", "-n", "40", "-w", str(tmp_path / "file"))["errno"] == {"0": 40}
    assert list(tmp_path.iterdir()) == []


def test_openloop_ends_when_its_time_is_over(folder: Path) -> None:
    report = run(folder, "openloop", "-n", "10000000", "-t", "0.05", "/dev/null")
    assert 0 < report["count"] < 10_000_000


@pytest.mark.parametrize("worker", [(), ("-w",)])
def test_uring_connect_reaches_a_listener(folder: Path, worker: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        report = run(folder, "uring_connect", *worker, "127.0.0.1", str(server.getsockname()[1]))
        assert report == {"workload": "uring_connect", "setup_errno": 0, "count": 1, "errno": 0, "res": 0}
        server.accept()[0].close()


@pytest.mark.parametrize("worker", [(), ("-w",)])
def test_uring_open_opens(folder: Path, tmp_path: Path, worker: tuple[str, ...]) -> None:
    assert run(folder, "uring_open", *worker, "-n", "3", "/dev/null")["res"] > 0
    assert run(folder, "uring_open", *worker, str(tmp_path / "absent"))["errno"] == 2


def test_throughput_receives_every_byte_that_it_sends(folder: Path) -> None:
    report = run(folder, "throughput", "-n", "600", "-b", "70000")
    assert (report["count"], report["errno"]) == (600, {"0": 600})
    assert report["received"] == 600 * report["bytes"] == 42_000_000
    assert 0 < report["least_ns"] <= report["ns"]


@pytest.mark.parametrize("address", [(), ("-a", "::1")])
def test_requests_are_answered_in_full(folder: Path, address: tuple[str, ...]) -> None:
    report = run(folder, "requests", "-n", "300", *address)
    assert (report["count"], report["errno"]) == (300, {"0": 300})


def test_requests_do_not_use_the_ports_up(folder: Path) -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    more = high - low + 2000
    assert run(folder, "requests", "-n", str(more), "-t", "50")["errno"] == {"0": more}


@pytest.mark.parametrize("program", ["throughput", "requests"])
def test_no_server_outlives_its_workload(folder: Path, program: str) -> None:
    run(folder, program, "-n", "3")
    left = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            left += [process] if os.readlink(process / "exe") == str(folder / program) else []
    assert left == []


def test_holdflows_holds_until_its_input_ends(folder: Path) -> None:
    command = [str(folder / "holdflows"), "-n", "50", "-r", "100000"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        report = json.loads(process.stdout.readline())
        assert (report["count"], report["errno"]) == (50, {"0": 50})
        sockets = [entry for entry in Path(f"/proc/{process.pid}/fd").iterdir() if "socket" in os.readlink(entry)]
        assert len(sockets) == 50
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def test_execstorm_accounts_for_every_exec(folder: Path) -> None:
    report = run(folder, "execstorm", "-P", "2", "-n", "20", "-t", "20")
    assert report["workers"] == [{"done": 20, "failed": 0, "killed": 0}] * 2
    assert (report["count"], report["lost_workers"]) == (40, 0)


def test_connectstorm_accounts_for_every_connect(folder: Path) -> None:
    report = run(folder, "connectstorm", "-P", "2", "-n", "50", "-t", "20")
    assert report["workers"] == [{"done": 50, "failed": 0, "killed": 0}] * 2


def test_forkbomb_stops_at_its_bound(folder: Path) -> None:
    assert run(folder, "forkbomb", "-n", "20", "-t", "1")["count"] == 20


def test_killlatency_counts_no_sample_when_nobody_kills(folder: Path) -> None:
    report = run(folder, "killlatency", "-n", "1")
    assert (report["count"], report["survived"], report["samples_ns"]) == (0, 1, [])


@pytest.mark.parametrize("bad", [("-n", "0"), ("-n", "x"), ("-t", "1e9"), ("-n", "-1")])
def test_bounds_cannot_be_lifted(folder: Path, bad: tuple[str, str]) -> None:
    result = subprocess.run([str(folder / "execloop"), *bad], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "expected" in result.stderr
