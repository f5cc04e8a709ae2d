"""The control socket of a real sensor: who may do what there, what comes of it, and what the audit keeps."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensor.control.client import Client
from sensor.errors import NotFoundError, UsageError
from tests.control.users import GID, GROUP, NOBODY, STRANGER, ask
from tests.live.running import CONFIG, Running, Sandbox

LISTED = STRANGER + 1
LAUNCHERS = f"[{{{{uid: {NOBODY}, parents: ['{{instance}}']}}}}]"
CONTROL = f"control: {{{{group: {GROUP}, uids: [{LISTED}], launchers: {LAUNCHERS}}}}}\n"
RULES = "rules: {{paths: ['{home}/rules']}}\n"
SLEEP = ("/usr/bin/python3", "-I", "-S", "-c", "import time; time.sleep(60)")
ASK = "import sys; from sensor.control.client import Client; print(Client(sys.argv[1]).disarm('x'))"
REPOSITORY = str(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(RULES + CONTROL, config=CONFIG, cache=rule_cache) as running:
        running.home.chmod(0o711)
        yield running


@pytest.fixture
def path(sensor: Running) -> Path:
    return sensor.home / "run" / "control.sock"


@pytest.fixture
def client(path: Path) -> Client:
    return Client(str(path), timeout=20)


def audit(sensor: Running, **wanted: Any) -> list[dict[str, Any]]:
    found = [line for line in sensor.lines() if line["kind"] == "audit"]
    return [line for line in found if all(line.get(name) == value for name, value in wanted.items())]


def killing(path: Path, sandbox: Sandbox, uid: int, reason: str) -> tuple[str, Any]:
    body = json.dumps({"reason": reason})
    status, answer = ask(path, "POST", f"/v1/sandboxes/{sandbox.id}/kill", body, uid=uid, groups=(GID,))
    return status, json.loads(answer)


def test_the_socket_and_its_folder_are_the_group_s(path: Path) -> None:
    found, folder = path.stat(), path.parent.stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o660, 0, GID)
    assert (folder.st_mode & 0o7777, folder.st_uid, folder.st_gid) == (0o750, 0, GID)
    with pytest.raises(subprocess.SubprocessError):
        subprocess.run(
            ["/usr/bin/python3", "-c", f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"],
            user=STRANGER, group=STRANGER, extra_groups=[], check=True, capture_output=True,
        )  # fmt: skip


def test_root_kills_what_it_names_and_the_log_says_why(sensor: Running, client: Client, sandbox: Sandbox) -> None:
    process = sandbox.start(*SLEEP)
    sensor.wait(sandbox, category="process_creation")
    assert [one["tgid"] for one in client.tree(sandbox.name)["processes"]] == [process.pid]
    assert client.kill(sandbox.name, "a rehearsal", dry_run=True)["would"]
    assert process.poll() is None
    answer = client.kill(sandbox.name, "mining")
    assert process.wait(timeout=20) == -9
    assert answer["killed"] == [process.pid]
    lines = audit(sensor, operation="kill", SandboxId=sandbox.id)
    assert [(line["outcome"], line["reason"], line["uid"]) for line in lines] == [
        ("intent", "mining", 0),
        ("done", "mining", 0),
    ]
    assert lines[0]["executable"] == str(Path(sys.executable).resolve())


def test_who_is_in_the_group_reads_and_changes_nothing(sensor: Running, path: Path, sandbox: Sandbox) -> None:
    process = sandbox.start(*SLEEP)
    sensor.wait(sandbox, category="process_creation")
    status, rows = ask(path, "GET", "/v1/sandboxes", uid=STRANGER, groups=(GID,))
    assert status == "200"
    assert sandbox.id in [row["id"] for row in json.loads(rows)]
    status, answer = killing(path, sandbox, STRANGER, "let me")
    assert (status, answer["code"]) == ("403", "denied")
    assert process.poll() is None
    (line,) = audit(sensor, uid=STRANGER, SandboxId=sandbox.id) or audit(sensor, uid=STRANGER)
    assert (line["outcome"], line["reason"], line["operation"]) == ("refused", "let me", "kill")


def test_a_listed_user_may_change(sensor: Running, path: Path, sandbox: Sandbox) -> None:
    process = sandbox.start(*SLEEP)
    sensor.wait(sandbox, category="process_creation")
    status, answer = killing(path, sandbox, LISTED, "mine")
    assert (status, answer["killed"]) == ("200", [process.pid])
    process.wait(timeout=20)
    assert audit(sensor, uid=LISTED, outcome="done", SandboxId=sandbox.id)


def test_a_launcher_kills_below_its_parents_and_disarms_nothing(sensor: Running, path: Path, sandbox: Sandbox) -> None:
    process = sandbox.start(*SLEEP)
    sensor.wait(sandbox, category="process_creation")
    body = json.dumps({"reason": "all of it"})
    assert ask(path, "POST", "/v1/disarm", body, uid=NOBODY, groups=(GID,))[0] == "403"
    status, answer = killing(path, sandbox, NOBODY, "my own")
    assert (status, answer["killed"]) == ("200", [process.pid])
    process.wait(timeout=20)


def test_a_launcher_touches_nothing_elsewhere(rule_cache: str) -> None:
    control = CONTROL.replace("'{instance}'", "'{instance}/elsewhere'")
    with Running(RULES + control, cache=rule_cache) as sensor, sensor.sandbox() as sandbox:
        sensor.home.chmod(0o711)
        process = sandbox.start(*SLEEP)
        sensor.wait(sandbox, category="process_creation")
        status, answer = killing(sensor.home / "run" / "control.sock", sandbox, NOBODY, "my own")
        assert (status, answer["code"]) == ("403", "denied")
        assert "below its parents" in answer["error"]
        assert process.poll() is None


def test_root_in_a_sandbox_is_cut_off_and_a_critical_line_says_so(
    sensor: Running, path: Path, client: Client, sandbox: Sandbox
) -> None:
    asked = sandbox.run(sys.executable, "-c", ASK, str(path), cwd=REPOSITORY)
    assert asked.returncode == 1
    assert b"the daemon refuses to answer this process" in asked.stderr
    inside = f"/{sensor.instance}/{sandbox.name}"
    told = sensor.until(
        lambda: [
            line for line in sensor.lines() if line["kind"] == "notice" and line["fields"].get("cgroup") == inside
        ],
        "the notice",
    )
    assert told[0]["text"].startswith("critical: ")
    assert client.status()["armed"] is True, "root outside is served still"


def test_what_happens_is_streamed_and_only_what_was_asked_for(
    sensor: Running, client: Client, sandbox: Sandbox
) -> None:
    seen: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for records, into in (
        (client.events(sandbox=str(sandbox.id), category="process_creation"), seen),
        (client.detections_stream(level="high"), found),
    ):
        threading.Thread(target=_drain, args=(records, into), daemon=True).start()

    def both() -> bool:
        sandbox.run("/bin/true", "-7-")
        return bool(seen) and bool(found)

    sensor.until(both, "both streams")
    with sensor.sandbox() as other:
        other.run("/bin/true", "elsewhere")
        sensor.settled(other)
    assert {line["SandboxId"] for line in seen} == {sandbox.id}
    assert {line["kind"] for line in found} == {"detection"}
    assert client.detections(sandbox=sandbox.name, level="high")[-1]["id"] in {line["id"] for line in found} | {
        line["id"] for line in sensor.of(sandbox, kind="detection")
    }


def _drain(records: Iterator[Any], into: list[Any]) -> None:
    with contextlib.suppress(Exception):  # the sensor ends before the stream does
        for record in records:
            into.append(record)


def test_disarm_arm_and_reload_take_effect_and_are_audited(sensor: Running, client: Client) -> None:
    assert client.disarm("a false alarm") == {"armed": False}
    assert client.status()["armed"] is False
    assert client.arm("over") == {"armed": True}
    assert client.status()["armed"] is True
    done = client.status()["reloads"]["done"]
    assert client.reload("new rules") == {"asked": True}
    sensor.until(lambda: client.status()["reloads"]["done"] == done + 1, "the reload")
    assert [line["operation"] for line in audit(sensor, outcome="done") if line["target"] == ""][-3:] == [
        "disarm",
        "arm",
        "reload",
    ]


def test_what_cannot_be_meant_is_said(client: Client, sandbox: Sandbox) -> None:
    with pytest.raises(NotFoundError, match=f"no sandbox {sandbox.name}x; there is {sandbox.name}"):
        client.kill(sandbox.name + "x", "because")
    with pytest.raises(UsageError, match="reason: expected one printable line"):
        client.kill(sandbox.name, "\t")


def test_rates_and_connections_of_a_sandbox_are_shown(sensor: Running, client: Client, sandbox: Sandbox) -> None:
    code = (
        "import socket, time\n"
        "s = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(s.getsockname()); a, _ = s.accept()\n"
        "end = time.monotonic() + 30\n"
        "while time.monotonic() < end:\n  c.sendall(b'x' * 1000); a.recv(1000); time.sleep(0.01)\n"
    )
    process = sandbox.start("/usr/bin/python3", "-I", "-S", "-c", code)
    try:

        def talks() -> Any:
            found = client.top()["talkers"]
            return [one for one in found if one["sandbox_id"] == sandbox.id and one["out_per_s"] > 0]

        (talker, *_) = sensor.until(talks, "a talker")
        assert (talker["tgid"], talker["protocol"]) == (process.pid, "tcp")
        assert client.sandbox(sandbox.id)["flows"]
    finally:
        process.kill()
        process.wait()


def test_a_flood_of_unpermitted_peers_keeps_no_permitted_one_out(
    sensor: Running, path: Path, client: Client, sandbox: Sandbox
) -> None:
    """Root in the sandbox connects as fast as it can, while root outside asks a thousand times."""
    code = (
        "import socket, sys\n"
        "while True:\n"
        "  s = socket.socket(socket.AF_UNIX)\n"
        "  try:\n    s.connect(sys.argv[1]); s.recv(1)\n"
        "  except OSError:\n    pass\n"
        "  s.close()\n"
    )
    flood = [sandbox.start("/usr/bin/python3", "-I", "-S", "-c", code, str(path)) for _ in range(3)]
    try:
        refused = 'pinfold_api_refused_total{reason="sandboxed"}'
        sensor.until(lambda: sensor.metrics()[refused] > 50, "the flood is refused")
        for _ in range(20):
            assert client.status()["version"]
        assert not sensor.lost()
    finally:
        for process in flood:
            process.kill()
            process.wait()


def test_a_group_that_is_not_there_is_said_at_the_start(rule_cache: str) -> None:
    with pytest.raises(AssertionError, match=r"control\.group: there is no group pinfold-absent"):  # noqa: SIM117
        with Running("control: {{group: pinfold-absent}}\n", cache=rule_cache):
            pass
