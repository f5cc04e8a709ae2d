from __future__ import annotations

import hashlib
import io
import os
import re
import stat
import tarfile
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from sensor.cli import bugarchive, bugitems, main
from sensor.cli.bugarchive import Archive, Item, Missing, cut, within
from sensor.config import Config, Paths
from sensor.errors import UsageError
from sensor.export import EventLog
from tests.cli.fake_api import serving
from tests.export import samples

SECRET = "hunter2"  # noqa: S105


@pytest.fixture
def config(tmp_path: Path) -> str:
    places = ("log", "runtime", "state", "cache", "bpffs")
    paths = ", ".join(f"{name}: {tmp_path}/{name}" for name in places)
    path = tmp_path / "c.yaml"
    path.write_text(f"paths: {{{paths}}}\n# password: {SECRET}\n")
    for name in places:
        (tmp_path / name).mkdir()
    return str(path)


@pytest.fixture(autouse=True)
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other programs tell of this machine is neither quick nor ours to judge; the last test lets them."""

    def run(*command: str, **_: Any) -> bytes:
        return b"played: " + " ".join(command).encode()

    monkeypatch.setattr(bugitems, "_run", run)


def members(path: Path) -> dict[str, bytes]:
    found = {}
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None and member.mode == 0o600 and member.uid == 0
            assert re.fullmatch(r"pinfold-bug/[a-z0-9-]+\.(json|jsonl|txt|yaml)", member.name), member.name
            found[member.name.removeprefix("pinfold-bug/")] = file.read()
    return found


def collect(config: str, tmp_path: Path, *arguments: str) -> dict[str, bytes]:
    archive = tmp_path / "a.tar.gz"
    assert main(["bugtool", "--config", config, "-o", str(archive), *arguments]) == 0
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    found = members(archive)
    for entry in orjson.loads(found["manifest.json"])["items"]:
        if "missing" not in entry:
            assert hashlib.sha256(found[entry["name"]]).hexdigest() == entry["sha256"]
            assert len(found[entry["name"]]) == entry["bytes"]
    return found


def state(tmp_path: Path) -> None:
    ledger = tmp_path / "state/quarantine"
    ledger.mkdir()
    (ledger / "q-1.json").write_text(
        f'{{"reason": "a tunnel", "note": "curl --password {SECRET}", "token": "{SECRET}"}}'
    )
    (tmp_path / "state/audit.jsonl").write_text('{"action": "release", "reason": "false alarm"}\n')
    (tmp_path / "state/evidence").mkdir()
    (tmp_path / "state/evidence/e.json").write_text("evidence")
    (tmp_path / "state/old.tar.gz").write_text("evidence")
    (tmp_path / "state/link.json").symlink_to("/etc/shadow")
    os.mkfifo(tmp_path / "state/fifo.json")


def test_with_the_sensor_dead_it_has_the_rest_and_says_what_is_missing(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state(tmp_path)
    log = EventLog(Config(paths=Paths(log=f"{tmp_path}/log")), lambda *_: None)
    log.recover()
    for position in range(5):
        log.add_activity(samples.process_creation(position=position, CommandLine=f"curl --password {SECRET}"))
    log.close()
    found = collect(config, tmp_path, "-n", "3")
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/a.tar.gz\n"
    assert "items are missing" in err
    lines = [orjson.loads(line) for line in found["21-log.jsonl"].splitlines()]
    assert [line["id"] for line in lines] == ["1f-2", "1f-3", "1f-4"]
    assert lines[0]["CommandLine"] == "curl --password ***"
    assert SECRET.encode() not in b"".join(found.values())
    states = b"".join(content for name, content in found.items() if name.startswith("state-"))
    assert b"a tunnel" in states and b"false alarm" in states
    assert b"evidence" not in states and b"root:" not in states
    assert b"fifo.json" in found["28-state.txt"]
    missing = found["missing.txt"].decode()
    assert "06-status.json: " in missing and "no daemon runs here" in missing
    assert "24-process.txt: the sensor does not run" in missing
    assert b"doctor" in found["03-doctor.json"] and b"rules list" in found["19-rule-files.json"]


def test_with_the_sensor_running_its_answers_are_in_it(config: str, tmp_path: Path) -> None:
    with serving(tmp_path / "runtime") as api:
        api.answers["GET /v1/status"] = (200, {"version": "x", "note": f"--token {SECRET}"})
        api.answers["GET /v1/sandboxes"] = (200, [{"name": "agent-1"}])
        api.answers["GET /v1/quarantines"] = (403, {"error": "not you"})
        api.answers["GET /metrics"] = (200, b"pinfold_sandboxes 1\n")
        found = collect(config, tmp_path)
    assert orjson.loads(found["06-status.json"]) == {"answer": {"version": "x", "note": "--token ***"}}
    assert orjson.loads(found["07-sandboxes.json"]) == {"answer": [{"name": "agent-1"}]}
    assert found["20-metrics.txt"] == b"pinfold_sandboxes 1\n"
    assert b"08-quarantines.json: not you" in found["missing.txt"]
    assert f"== {os.getpid()}\n".encode() in found["24-process.txt"]  # who listens here
    assert b"VmRSS" in found["24-process.txt"]


def test_a_dry_run_lists_what_would_go_in(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state(tmp_path)
    before = sorted(os.listdir("."))
    assert main(["bugtool", "--config", config, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "03-doctor.json" in out and "state-001" in out
    assert sorted(os.listdir(".")) == before


def test_a_file_that_is_there_is_left_alone(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "keep"
    target.write_text("keep")
    (tmp_path / "link").symlink_to(target)
    for name in ("keep", "link", "no/such/folder"):
        assert main(["bugtool", "--config", config, "-o", str(tmp_path / name)]) == 2
    assert target.read_text() == "keep"
    assert capsys.readouterr().err.count("cannot be made") == 3


def test_a_configuration_that_is_wrong_is_what_the_report_may_be_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"instance: A\napi_key: {SECRET}\n")
    monkeypatch.setattr(bugitems, "items", lambda _config, file, _lines: [
        Item("04-configuration.yaml", "", "", lambda: bugitems._configuration(file)),
    ])  # fmt: skip
    found = collect(str(bad), tmp_path)
    assert found["04-configuration.yaml"] == b"instance: A\napi_key: ***\n"
    assert "the defaults are looked at" in capsys.readouterr().err


def fail(why: Exception) -> bytes:
    raise why


def test_an_item_that_fails_or_hangs_leaves_the_others(tmp_path: Path) -> None:
    never = threading.Event()
    assert within(lambda: b"x", 10) == (b"x", "")
    assert within(lambda: fail(Missing("gone")), 10) == (b"", "gone")
    assert within(lambda: fail(PermissionError(13, "Permission denied", "/x")), 10) == (b"", "/x: Permission denied")
    assert within(lambda: fail(ZeroDivisionError("y")), 10) == (b"", "ZeroDivisionError: y")
    assert within(lambda: b"x" if never.wait() else b"", 0.05) == (b"", "it took longer than 0 s")
    assert within(lambda: b"x", 0)[1].startswith("no time was left")


def test_what_is_too_long_is_cut_where_it_matters_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cut(b"abc", 3, tail=False) == b"abc"
    assert cut(b"a" * 50 + b"b" * 50, 40, tail=True).endswith(b"b" * 28)
    assert cut(b"a" * 50 + b"b" * 50, 40, tail=False).startswith(b"a" * 28)
    monkeypatch.setattr(bugarchive, "ITEM_BYTES", 100)
    monkeypatch.setattr(bugarchive, "ALL_BYTES", 250)
    path = tmp_path / "a.tar.gz"
    with Archive(str(path)) as archive:
        for number in range(5):
            archive.take(Item(f"{number}.txt", "", "", lambda: b"x" * 1000))
    found = members(path)
    assert [len(found.get(f"{number}.txt", b"")) for number in range(5)] == [100, 100, 50, 0, 0]
    assert len(archive.missing) == 2
    assert orjson.loads(found["manifest.json"])["items"][0]["cut_from_bytes"] == 1000


def test_what_is_interrupted_leaves_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with pytest.raises(KeyboardInterrupt), Archive(str(path)):
        raise KeyboardInterrupt
    assert not path.exists()
    with pytest.raises(UsageError):
        Archive(str(tmp_path))


def test_pins_are_listed_and_what_is_no_object_is_said(tmp_path: Path) -> None:
    (tmp_path / "gen-1").mkdir()
    (tmp_path / "gen-1/map-x").touch()
    assert b"gen-1/map-x" in bugitems._pins(str(tmp_path))
    found = orjson.loads(bugitems._objects(str(tmp_path)))
    assert list(found) == [f"{tmp_path}/gen-1/map-x"] and "missing" in found[f"{tmp_path}/gen-1/map-x"]
    with pytest.raises(Missing):
        bugitems._objects(str(tmp_path / "none"))


def test_programs_that_are_absent_or_fail_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(Missing, match="there is no pinfold-no-such-program here"):
        bugitems._run("pinfold-no-such-program")
    with pytest.raises(Missing, match=r"sh ended with 3: password=\*\*\*"):
        bugitems._run("sh", "-c", f"echo password={SECRET} >&2; exit 3")
    assert bugitems._run("sh", "-c", f"echo --token {SECRET}") == b"--token ***\n"
    assert bugitems._own(None, "rules", "list").startswith(b"{")
    assert io.BytesIO(bugitems._version()).read(1) == b"{"
