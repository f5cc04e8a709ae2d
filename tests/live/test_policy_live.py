"""What follows a detection, and what a class refuses: as the kernel does it, and as `pinfold policy` says."""

from __future__ import annotations

import signal
import socket
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sensor.config import load
from sensor.control.client import Client
from tests.live.answering import SETTINGS, outcomes, responses, with_rules
from tests.live.names import unique
from tests.live.operating import WHY, end, pinfold
from tests.live.peers.network import SERVER, Network
from tests.live.running import Running, Sandbox
from tests.live.working import ALL, Worker, worker
from tests.respond.host import alive

PORT = 4711
PLACE = f"{SERVER}:{PORT}"
STRICT = """
  strict:
    mode: enforce
    granted_devices: []
    egress: {{default: deny}}
    denied_executables: {{paths: [/usr/bin/true]}}
"""
REGISTERED = SETTINGS.replace(
    "assign:\n", "assign:\n  - {{attributes: {{purpose: evaluation}}, class: strict}}\n"
).replace("classes:\n", "classes:" + STRICT)


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    python = str(Path("/usr/bin/python3").resolve())
    with with_rules(Running(config=REGISTERED.replace("PYTHON", python), cache=rule_cache)) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def server(network: Network) -> Iterator[socket.socket]:
    with network.outside.call(lambda: socket.create_server((SERVER, PORT))) as made:
        made.settimeout(20)
        yield made


def sleeper(box: Sandbox, *words: str) -> Any:
    return box.start("/usr/bin/python3", "-I", "-S", "-c", "import time; time.sleep(300)", *words)


NUMBERED, TAGGED = "x-7-x", "dig-gold"


@pytest.mark.parametrize(
    ("kind", "word", "action"),
    [
        ("level", NUMBERED, "quarantine"),
        ("ruled", NUMBERED, "freeze"),
        ("tagged", TAGGED, "kill-sandbox"),
        ("killed", NUMBERED, "kill"),
    ],
)
def test_what_follows_a_detection(sensor: Running, kind: str, word: str, action: str) -> None:
    with sensor.sandbox(f"{kind}-{unique()}") as box:
        bystander, process = sleeper(box), sleeper(box, word)
        (done,) = sensor.wait(box, kind="response", outcome="done")
        assert outcomes(sensor, box.id) == [(action, "intent"), (action, "done")]
        if action in {"kill", "kill-sandbox"}:
            assert process.wait(20) == -signal.SIGKILL
            if action == "kill":
                assert bystander.poll() is None
                bystander.kill()
            assert bystander.wait(20) == -signal.SIGKILL
            return
        held = str(done["reason"]).removeprefix("quarantine ")
        sensor.until(
            lambda: pinfold(sensor, "quarantine", "describe", held, "-o", "json").row["state"] == "held", "held"
        )
        record = pinfold(sensor, "quarantine", "describe", held, "-o", "json").row
        assert record["order"]["operator"].startswith(f"policy: class {kind}, detection ")
        assert record["order"]["detection_id"] == done["detection"]
        assert "frozen 1" in (box.path / "cgroup.events").read_text()
        steps = {step["name"]: step["state"] for step in record["steps"]}
        assert steps["freeze"] == "done"
        assert {steps[name] for name in ("network", "exec")} == {"done" if action == "quarantine" else "skipped"}
        assert bool(record["evidence"]) == (action == "quarantine")
        assert end(sensor, "release", held)["state"] == "released"
        assert alive(process.pid) and alive(bystander.pid)
        process.kill()
        bystander.kill()
        process.wait()
        bystander.wait()


def test_a_score_decides(sensor: Running, network: Network, server: socket.socket) -> None:
    """A pool's dialect is worth 90 points."""
    with worker(sensor, network, (SERVER, PORT), name=f"scored-{unique()}") as box:
        assert box.do("connect") == ["ok"]
        with server.accept()[0] as peer:
            assert box.do("mine") == ["ok"]
            sensor.until(lambda: ("quarantine", "done") in outcomes(sensor, box.id), "it is quarantined")
            peer.settimeout(20)
            with pytest.raises(ConnectionResetError):
                deque(iter(lambda: peer.recv(1024), b""), 0)
        end(sensor, "kill", box.name)


def test_monitor_mode_only_says_what_it_would(sensor: Running) -> None:
    with sensor.sandbox(f"told-{unique()}") as box:
        process = sleeper(box, NUMBERED)
        sensor.wait(box, kind="response", outcome="would")
        sensor.settled(box)
        assert outcomes(sensor, box.id) == [("quarantine", "would")]
        assert "frozen 0" in (box.path / "cgroup.events").read_text()
        process.kill()
        process.wait()


def test_beyond_its_budget_it_is_only_told_and_loudly(sensor: Running) -> None:
    with sensor.sandbox(f"few-{unique()}") as first, sensor.sandbox(f"few-{unique()}") as second:
        one = sleeper(first, NUMBERED)
        sensor.wait(first, kind="response", outcome="done")
        two = sleeper(second, NUMBERED)
        (told,) = sensor.wait(second, kind="response", outcome="budget")
        assert told["action"] == "freeze"
        assert "frozen 0" in (second.path / "cgroup.events").read_text()
        notices = [line["text"] for line in sensor.lines() if line["kind"] == "notice"]
        assert [text for text in notices if text.startswith("critical: 1 quarantines of class few in a minute")]
        sensor.until(lambda: "critical: 1 quarantines of class few" in sensor.said(), "it is said on stderr too")
        assert sensor.metrics()["pinfold_response_budget_exceeded_total"] == 1
        end(sensor, "kill", first.name)
        one.wait(20)
        two.kill()
        two.wait()


def test_with_grace_it_is_announced_and_not_done_once_it_is_acknowledged(sensor: Running) -> None:
    with sensor.sandbox(f"slow-{unique()}") as known, sensor.sandbox(f"slow-{unique()}") as unknown:
        processes = [sleeper(known, NUMBERED), sleeper(unknown, NUMBERED)]
        (announced,) = sensor.wait(known, kind="response", outcome="announced")
        assert "in 6 s" in announced["reason"]
        pinfold(sensor, "detections", "ack", announced["detection"], "--reason", "it is ours")
        sensor.wait(unknown, kind="response", outcome="done")
        (told,) = sensor.wait(known, kind="response", outcome="acknowledged")
        assert "it is ours" in told["reason"]
        assert "frozen 0" in (known.path / "cgroup.events").read_text()
        assert [outcome for _, outcome in outcomes(sensor, unknown.id)] == ["announced", "intent", "done"]
        end(sensor, "kill", unknown.name)
        processes[0].kill()
        for process in processes:
            process.wait(20)


def test_a_silence_holds_until_it_is_taken_back(sensor: Running) -> None:
    with sensor.sandbox(f"level-{unique()}") as box:
        process = sleeper(box)
        made = pinfold(sensor, "detections", "silence", "--sandbox", box.name, "--for", "5m", "--reason", "a window")
        box.run("/usr/bin/true", NUMBERED)
        (told,) = sensor.wait(box, kind="response", outcome="silenced")
        assert "a window" in told["reason"] and outcomes(sensor, box.id) == [("quarantine", "silenced")]
        (silence,) = pinfold(sensor, "detections", "silences", "-o", "json").rows
        assert silence["id"] in made.out + made.err
        pinfold(sensor, "detections", "unsilence", silence["id"], *WHY)
        caught = box.start("/usr/bin/true", NUMBERED)
        sensor.wait(box, kind="response", outcome="done")
        end(sensor, "kill", box.name)
        process.wait(20)
        caught.wait(20)


def test_an_exception_is_of_a_program_and_a_destination(sensor: Running, network: Network) -> None:
    with worker(sensor, network, (SERVER, PORT), name=f"excepted-{unique()}") as box:
        assert box.do("connect") == ["ok"]
        sensor.until(lambda: outcomes(sensor, box.id) == [("freeze", "excepted")], "it is excepted")
        assert "a mirror" in responses(sensor, box.id)[0]["reason"]
        assert not box.frozen
    with worker(sensor, network, (SERVER, PORT), "bash", name=f"excepted-{unique()}") as box:
        assert box.do("connect") == ["ok"]
        sensor.until(lambda: ("freeze", "done") in outcomes(sensor, box.id), "another program is not")
        end(sensor, "kill", box.name)


# Classes.


def asked(sensor: Running, box: Worker) -> list[str]:
    """What `policy explain` says of what a worker does."""
    questions = (("--connect", PLACE), ("--device", "fuse"), ("--exec", "/usr/bin/true"))
    answers = [
        pinfold(sensor, "policy", "explain", "--sandbox", box.name, *each, "-o", "json").row for each in questions
    ]
    assert all(answer["class"] == _class(sensor, box) for answer in answers)
    if answers[0]["verdict"] == "refused":
        lines = sensor.file.read_text().splitlines()
        for answer, word in zip(answers, ("default: deny", "granted_devices", "/usr/bin/true"), strict=True):
            file, number, _ = str(answer["where"]).split(":", 2)
            assert file == str(sensor.file) and word in lines[int(number) - 1], answer
    return [answer["verdict"] for answer in answers]


def _class(sensor: Running, box: Worker) -> str:
    return str(Client.of(load(str(sensor.file))).get(f"/v1/sandboxes/{box.id}")["class"])


REFUSED, ALLOWED = ["EPERM", "EPERM", "-9"], ["ok"] * 3


def test_attributes_move_a_running_sandbox_to_another_class_and_it_stays_there(
    sensor: Running, network: Network
) -> None:
    def register(attributes: dict[str, str]) -> str:
        client = Client.of(load(str(sensor.file)))
        answer = client.post(f"/v1/sandboxes/{box.id}/attributes", {"reason": "a drill", "attributes": attributes})
        return str(answer["class"])

    with worker(sensor, network, (SERVER, PORT)) as box:
        assert box.do(*ALL) == ALLOWED
        assert asked(sensor, box) == ["allowed"] * 3
        assert register({"purpose": "evaluation"}) == "strict"
        assert box.do(*ALL) == REFUSED
        assert asked(sensor, box) == ["refused", "refused", "killed"]
        reloaded = pinfold(sensor, "policy", "reload", *WHY)
        assert "done" in reloaded.err
        assert box.do(*ALL) == REFUSED
        sensor.stop(signal.SIGKILL)
        assert box.do(*ALL) == REFUSED
        sensor.start()
        assert box.do(*ALL) == REFUSED
        assert asked(sensor, box) == ["refused", "refused", "killed"]
        assert register({}) == "default"
        assert box.do(*ALL) == ALLOWED


def test_what_a_run_suggests_is_a_policy_under_which_it_runs(sensor: Running, network: Network, tmp_path: Path) -> None:
    before = sensor.file.read_text()
    with worker(sensor, network, (SERVER, PORT)) as box:
        assert box.do(*ALL) == ALLOWED
        sensor.until(
            lambda: (
                {"network_connection", "device_access"}
                <= {line.get("category") for line in sensor.lines() if line.get("SandboxId") == box.id}
            ),
            "what it did is in the log",
        )
        text = pinfold(sensor, "policy", "suggest", "--sandbox", box.name, "--class", "learnt").out
    suggested = yaml.safe_load(text)
    alone = tmp_path / "suggested.yaml"
    alone.write_text(text)
    found = pinfold(sensor, "policy", "check", str(alone), "-o", "json", status=10).rows
    assert {(one["severity"], "only told, since" in one["reason"]) for one in found} == {("warning", True)}, found
    assert "all as expected" in pinfold(sensor, "policy", "test", str(alone)).err
    policy = yaml.safe_load(before)
    policy["classes"] |= suggested["classes"]
    policy["classes"]["learnt"]["mode"] = "enforce"
    policy["assign"].insert(0, {"path": "*/learnt-*", "class": "learnt"})
    try:
        sensor.file.write_text(yaml.safe_dump(policy))
        pinfold(sensor, "policy", "reload", *WHY)
        with worker(sensor, network, (SERVER, PORT), name=f"learnt-{unique()}") as box:
            assert box.do(*ALL) == ALLOWED
            refused = [line for line in sensor.lines() if line.get("SandboxId") == box.id and _refused(line)]
            assert refused == []
        other = network.port()
        with worker(sensor, network, (SERVER, other), name=f"learnt-{unique()}") as box:
            assert box.do("connect") == ["EPERM"]
            question = ("--sandbox", box.name, "--connect", f"{SERVER}:{other}")
            assert pinfold(sensor, "policy", "explain", *question, "-o", "json").row["verdict"] == "refused"
    finally:
        sensor.file.write_text(before)
        pinfold(sensor, "policy", "reload", *WHY)


def _refused(line: dict[str, Any]) -> bool:
    return bool(line.get("Killed")) or line.get("Verdict") in {"refused", "egress", "device", "unrecorded"}


EXAMPLES = """
examples:
  - {class: strict, connect: "203.0.113.10:4711", expect: refused}
  - {class: strict, device: fuse, expect: refused}
  - {class: strict, exec: /usr/bin/true, expect: killed}
  - {class: told, detection: {level: high}, expect: would-quarantine}
  - {class: ruled, detection: {level: high, rule: A numbered exec}, expect: freeze}
  - {class: default, device: fuse, expect: %s}
"""


def test_a_policys_own_examples(sensor: Running, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(sensor.file.read_text() + EXAMPLES % "allowed")
    assert "6 examples, all as expected" in pinfold(sensor, "policy", "test", str(file)).err
    file.write_text(sensor.file.read_text() + EXAMPLES % "refused")
    (wrong,) = (
        one for one in pinfold(sensor, "policy", "test", str(file), "-o", "json", status=10).rows if not one["ok"]
    )
    assert (wrong["expected"], wrong["found"]) == ("refused", "allowed")
