from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from rich.cells import cell_len

from sensor.bpf import features, libbpf
from sensor.bpf.libbpf import MapType, ProgType
from sensor.cli import hostchecks, main
from sensor.cli.hostchecks import Check
from sensor.config import Config, Log, Paths, complete


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(f"paths: {{log: {tmp_path}}}\nlog: {{max_bytes: 4096, keep: 1}}\n")
    return str(path)


def told(monkeypatch: pytest.MonkeyPatch, *found: Check) -> None:
    monkeypatch.setattr(hostchecks, "checks", lambda _config: iter(found))


def test_this_host_is_told_in_80_columns_and_in_json(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status = main(["doctor", "--config", config])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["What", "State", "Detail"]
    assert max(map(cell_len, lines[: lines.index("")] if "" in lines else lines)) <= 80
    assert main(["doctor", "--config", config, "-o", "json"]) == status
    found = {check["name"]: check for check in orjson.loads(capsys.readouterr().out)}
    for name in ("BTF", "root", "cgroup2", "bpffs", "tracefs", "bcc", "disk space", "device programs"):
        assert found[name]["state"] in ("supported", "unsupported", "inconclusive")
    missing = [check for check in found.values() if check["required"] and check["state"] == "unsupported"]
    assert status == bool(missing)


@pytest.mark.parametrize(
    ("state", "required", "status"),
    [("unsupported", True, 1), ("unsupported", False, 0), ("inconclusive", True, 0), ("supported", True, 0)],
)
def test_only_a_missing_requirement_is_1(
    config: str, monkeypatch: pytest.MonkeyPatch, state: str, required: bool, status: int
) -> None:
    told(monkeypatch, Check("a", "supported", "", "", "", True), Check("b", state, "x", "everything", "do", required))
    assert main(["doctor", "--config", config]) == status


@pytest.mark.parametrize(
    ("uid", "state", "remedy"), [(0, "unsupported", "boot a newer kernel"), (1000, "inconclusive", "run it with sudo")]
)
def test_nobody_without_rights_is_told_to_boot_another_kernel(
    monkeypatch: pytest.MonkeyPatch, uid: int, state: str, remedy: str
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setattr(libbpf, "probe_program", lambda _kind: 0)
    found = {check.name: check for check in hostchecks.checks(complete(Config()))}
    assert found["raw tracepoint programs"].state == state
    assert found["raw tracepoint programs"].remedy.startswith(remedy)


FLOWS = ("sock ops programs", "cgroup skb programs", "socket storage", "LPM trie", "LRU hash")


def test_what_flows_need_is_required_and_said_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(libbpf, "probe_program", lambda kind: int(kind not in (ProgType.SOCK_OPS, ProgType.CGROUP_SKB)))
    monkeypatch.setattr(libbpf, "probe_map", lambda kind: int(kind == MapType.RINGBUF))
    found = {check.name: check for check in hostchecks.checks(complete(Config()))}
    for name in FLOWS:
        assert (found[name].state, found[name].required) == ("unsupported", True)
        assert found[name].lost_without
        assert found[name].remedy.startswith("boot a newer kernel")
    assert {found[name].state for name in ("ring buffer", "cgroup sock programs", "cgroup device programs")} == {
        "supported"
    }


def test_without_the_coarse_clock_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(libbpf, "try_load", lambda *_: (0, "unknown func bpf_ktime_get_coarse_ns#160"))
    found = {check.name: check for check in hostchecks.checks(complete(Config()))}
    assert (found["coarse clock"].state, found["coarse clock"].required) == ("unsupported", False)
    assert found["coarse clock"].lost_without.startswith("nothing")


def test_without_the_registers_no_system_call_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which call a tracepoint fired in stands there."""
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(libbpf, "try_load", lambda *_: (1, ""))
    assert set(features.TRACEPOINTS) < set(features.chosen())
    assert features.GATE not in features.chosen()
    assert features.GATE in features.chosen(gate=True)
    monkeypatch.setattr(libbpf, "try_load", lambda *_: (0, "unknown func bpf_task_pt_regs#175"))
    assert features.chosen(gate=True) == ()
    found = {check.name: check for check in hostchecks.checks(complete(Config()))}
    for name in ("signals and ptrace", "requests for capabilities", "io_uring", "system calls at their gate"):
        assert (found[name].state, found[name].required) == ("unsupported", False)
        assert found[name].lost_without


def test_what_is_missing_comes_with_its_cost_and_remedy(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told(monkeypatch, Check("b\x1b", "unsupported", "[red]x[/red]\x1b", "much", "mend\x1b it", True))
    main(["doctor", "--config", config])
    out = capsys.readouterr().out
    assert "[red]x[/red]\\x1b" in out
    assert out.endswith("b\\x1b (required): unsupported\n  without it: much\n  what to do: mend\\x1b it\n")


@pytest.fixture
def namesake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("namesake")
def test_pypi_s_bcc_is_told_from_the_real_one() -> None:
    check = hostchecks._bcc()
    assert (check.state, check.required) == ("unsupported", True)
    assert "PyPI" in check.detail
    assert "python3-bpfcc" in check.remedy


def test_a_disk_too_small_for_the_log_is_told(tmp_path: Path) -> None:
    config = complete(Config(paths=Paths(log=str(tmp_path / "not/yet")), log=Log(max_bytes=1 << 40, keep=1000)))
    check = hostchecks._space(config)
    assert (check.state, check.required) == ("unsupported", False)
    assert str(tmp_path) in check.detail


def test_a_folder_that_is_no_bpffs_is_told_with_the_mount_command(tmp_path: Path) -> None:
    config = Config(paths=Paths(bpffs=str(tmp_path)))
    check = next(check for check in hostchecks._mounts(config) if check.name == "bpffs")
    assert (check.state, check.required, check.remedy) == ("unsupported", True, f"mount -t bpf none {tmp_path}")
