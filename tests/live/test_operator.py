"""The operator's hand on real sandboxes: quarantined, examined, released and killed by `pinfold`, the daemon alive."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sensor.bpf.denials import Denials, Deny
from sensor.respond.evidence.verify import verify
from tests.live.names import unique
from tests.live.operating import WHY, Row, audits, end, pinfold, quarantine
from tests.live.peers.network import SERVER, Network
from tests.live.running import CONFIG, Running
from tests.live.test_kill import FORKER
from tests.live.working import ALL, SECRET, Worker, worker
from tests.respond.evidence.boxes import Archive

STEPS = ["network", "sockets", "devices", "exec", "freeze", "evidence", "hold"]


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running("rules: {{paths: ['{home}/rules']}}\n", config=CONFIG, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture(scope="module")
def server(network: Network) -> Iterator[socket.socket]:
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as made:
        made.settimeout(20)
        yield made


@pytest.fixture
def denials(sensor: Running) -> Iterator[Denials]:
    found = Denials.pinned("/sys/fs/bpf", sensor.instance)
    assert found is not None
    yield found
    left = found.all()
    for sandbox_id in left:
        found.lift(sandbox_id)
    assert left == {}, "a test left something denied"


def outcomes(record: Row, name: str = "steps") -> dict[str, str]:
    return {step["name"]: step["state"] for step in record[name]}


@pytest.mark.parametrize("kind", ["bash", "python", "nested", "runc"])
def test_it_is_quarantined_examined_released_and_killed(
    sensor: Running, network: Network, server: socket.socket, denials: Denials, kind: str
) -> None:
    with worker(sensor, network, server.getsockname(), kind) as box:
        assert box.do(*ALL, "detected") == ["ok"] * 4
        sensor.until(
            lambda: [
                line for line in sensor.lines() if line.get("SandboxId") == box.id and line["kind"] == "detection"
            ],
            "its detection",
        )
        with server.accept()[0] as peer:
            record = quarantine(sensor, box.name)
            assert outcomes(record) == dict.fromkeys(STEPS, "done")
            assert denials.get(box.id) & Deny.NETWORK and box.frozen
            peer.settimeout(20)
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        _examine(sensor, box, record, kind)

        released = end(sensor, "release", box.name)
        assert released["state"] == "released"
        assert {outcomes(released, "undone")[step] for step in ("thaw", "lift")} == {"done"}
        assert denials.all() == {} and not box.frozen
        counted = int(box.do("count")[0])
        assert box.do(*ALL) == ["ok"] * 3
        sensor.until(lambda: int(box.do("count")[0]) > counted, "it runs on")
        server.accept()[0].close()

        quarantine(sensor, box.name, "--no-evidence")
        killed = end(sensor, "kill", box.name)
        assert killed["state"] == "killed" and box.living() == []
        assert box.process.wait(20) == (128 + signal.SIGKILL if kind == "runc" else -signal.SIGKILL)


def _examine(sensor: Running, box: Worker, record: Row, kind: str) -> None:
    """Its evidence, and what is told of it."""
    (shown,) = (one for one in pinfold(sensor, "quarantine", "list", "-o", "json").rows if one["id"] == record["id"])
    assert (shown["state"], shown["order"]["name"]) == ("held", box.name)
    described = pinfold(sensor, "quarantine", "describe", box.name, columns=300).out
    assert all(word in described for word in (*STEPS, record["id"], record["evidence"], "a drill", "uid 0")), described
    status = os.lstat(record["evidence"])
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert verify(record["evidence"]) == []
    archive = Archive(record["evidence"])
    assert archive.manifest["complete"]
    assert SECRET.encode() not in archive.raw
    (main,) = (each for each in archive.processes.values() if str(SERVER) in str(each))
    assert b"API_TOKEN" in archive.raw
    image = "/usr/bin/bash" if kind == "bash" else os.path.realpath("/usr/bin/python3")
    digest = hashlib.sha256(Path(image).read_bytes()).hexdigest()
    assert digest in archive.members["executables.json"].decode()
    facts = archive.json("facts.json")
    assert facts["order"]["reason"] == "a drill"
    assert {"A numbered exec"} == {one["rule"]["title"] for one in facts["detections"]}
    kinds = {one.get("category") for one in facts["events"]}
    assert {"network_connection", "process_creation", "device_access"} <= kinds
    if kind != "bash":
        assert [each["owners"] for each in archive.sockets if each["state"] == "LISTEN"] == [[main["tgid"]]]


def test_without_a_freeze_it_runs_on_and_may_do_nothing(
    sensor: Running, network: Network, server: socket.socket, denials: Denials
) -> None:
    with worker(sensor, network, server.getsockname()) as box:
        assert box.do(*ALL) == ["ok"] * 3
        with server.accept()[0]:
            would = pinfold(sensor, "quarantine", "add", box.name, *WHY, "--dry-run")
            assert "network" in would.out and denials.all() == {}
            record = quarantine(sensor, box.name, "--no-freeze", "--no-evidence")
            assert [name for name, state in outcomes(record).items() if state == "skipped"] == ["freeze", "evidence"]
            assert box.do(*ALL) == ["EPERM", "EPERM", "-9"]
            assert box.do("send") == ["ECONNABORTED"]
        again = pinfold(sensor, "quarantine", "add", box.name, "--reason", "another", "-o", "json")
        assert again.row["id"] == record["id"] and "in quarantine already" in again.err
        status = pinfold(sensor, "status", "--check", "-o", "json", status=10).row
        assert "1 quarantine in force" in status["findings"]
        assert pinfold(sensor, "quarantine", "list", "--check", status=10).out
        (row,) = (one for one in pinfold(sensor, "sandbox", "list", "-o", "json").rows if one["id"] == box.id)
        assert row["quarantine"] == record["id"]
        pinfold(sensor, "quarantine", "release", record["id"], *WHY, status=2)  # nobody said yes
        assert pinfold(sensor, "quarantine", "release", record["id"], *WHY, "--dry-run").out
        assert denials.get(box.id)
        assert end(sensor, "release", record["id"])["state"] == "released"
        assert box.do(*ALL) == ["ok"] * 3
        over = pinfold(sensor, "quarantine", "kill", record["id"], *WHY, "--yes", status=1)
        assert "is over already: released" in over.err
        server.accept()[0].close()
    told = [(line["outcome"], line["reason"], line["uid"]) for line in audits(sensor, "quarantine_release")]
    assert told[-1] == ("done", "a drill", 0)


def test_its_own_loopback_may_be_left_to_it(
    sensor: Running, network: Network, server: socket.socket, denials: Denials
) -> None:
    with network.inside.call(lambda: socket.create_server(("127.0.0.1", 0))) as local:
        with worker(sensor, network, local.getsockname()) as box:
            record = quarantine(sensor, box.name, "--no-freeze", "--no-evidence", "--loopback")
            assert "within its own network namespace allowed" in record["steps"][0]["detail"], record
            assert box.do("connect", "device") == ["ok", "EPERM"]
            end(sensor, "release", box.name)
        with worker(sensor, network, server.getsockname()) as box:
            quarantine(sensor, box.name, "--no-freeze", "--no-evidence", "--loopback")
            assert box.do("connect") == ["EPERM"]
            end(sensor, "kill", box.name)


def test_a_fork_bomb_is_held_and_killed(sensor: Running, denials: Denials, tmp_path: Path) -> None:
    counter = tmp_path / "born"
    counter.touch()
    with sensor.sandbox() as box:
        process = box.start(sys.executable, "-c", FORKER.format(counter=str(counter)))
        sensor.until(lambda: counter.stat().st_size >= 50, "it forks")
        record = quarantine(sensor, str(box.id))
        born = counter.stat().st_size
        assert len(Archive(record["evidence"]).processes) >= 50
        assert verify(record["evidence"]) == []
        assert counter.stat().st_size == born
        assert end(sensor, "kill", record["id"])["state"] == "killed"
        assert process.wait(20) == -signal.SIGKILL
        assert (box.path / "cgroup.procs").read_text() == ""
        assert "populated 0" in (box.path / "cgroup.events").read_text()


def test_what_is_to_happen_when_its_time_is_over(sensor: Running, denials: Denials) -> None:
    wanted = {"release": "released", "kill": "killed", "hold": "held"}
    with contextlib.ExitStack() as stack:
        boxes = {action: stack.enter_context(sensor.sandbox(f"plain-{action}-{unique()}")) for action in wanted}
        running = {action: box.start("/usr/bin/sleep", "300") for action, box in boxes.items()}
        ids = {}
        for action, box in boxes.items():
            options = ("--ttl", "1s", "--on-expiry", action, "--no-evidence")
            ids[action] = quarantine(sensor, f"{sensor.instance}/{box.name}", *options)["id"]

        def states() -> dict[str, str]:
            known = {one["id"]: one for one in pinfold(sensor, "quarantine", "list", "--all", "-o", "json").rows}
            return {
                action: known[quarantine_id]["state"]
                for action, quarantine_id in ids.items()
                if action != "hold" or known[quarantine_id]["expired"]
            }

        sensor.until(lambda: states() == wanted, "each ended as it was asked for")
        assert running["kill"].wait(20) == -signal.SIGKILL
        assert running["release"].poll() is None and "frozen 0" in (boxes["release"].path / "cgroup.events").read_text()
        assert list(denials.all()) == [boxes["hold"].id]
        assert "frozen 1" in (boxes["hold"].path / "cgroup.events").read_text()
        end(sensor, "kill", ids["hold"])
        running["hold"].wait(20)
        running["release"].kill()
        running["release"].wait()


def test_kill_ends_a_sandbox_at_once(sensor: Running, network: Network, server: socket.socket) -> None:
    with worker(sensor, network, server.getsockname(), "nested") as box:
        assert "1 processes" in pinfold(sensor, "kill", box.name, *WHY, "--dry-run").out
        assert box.living() == [box.process.pid]
        done = pinfold(sensor, "kill", box.name, *WHY, "--yes", "-o", "json").row
        assert done["killed"] == [box.process.pid] and done["complete"]
        assert box.process.wait(20) == -signal.SIGKILL
        assert {line["outcome"] for line in audits(sensor, "kill")} == {"intent", "done"}
