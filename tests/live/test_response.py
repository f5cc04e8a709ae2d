"""From a detection to what follows it, through the whole sensor."""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.live.running import CONFIG, Running, Sandbox

ALL = CONFIG.replace(
    "sandboxes:\n",
    'sandboxes:\n  - {{path: "{instance}/whole-*", class: whole}}\n  - {{path: "{instance}/slow-*", class: slow}}\n',
).replace(
    "classes:\n",
    "classes:\n  whole: {{mode: enforce, responses: {{high: kill-sandbox}}}}\n"
    "  slow: {{mode: enforce, responses: {{grace_seconds: 1, rules: [{{rule: RULE, action: kill}}]}}}}\n".replace(
        "RULE", "7c1c9d0e-2f6b-4a55-9d5e-0c8f5f1d2a3b"
    ),
)
OWN = "rules: {{paths: ['{home}/rules']}}\n"
SLEEP = ("/usr/bin/python3", "-I", "-S", "-c", "import time; time.sleep(60)", "x-7-x")  # what the rule matches


@pytest.fixture(scope="module")
def sensor() -> Iterator[Running]:
    with Running(OWN, config=ALL) as running:
        yield running


def responses(sensor: Running, sandbox: Sandbox) -> list[tuple[str, str, str]]:
    return [(r["action"], r["mode"], r["outcome"]) for r in sensor.of(sandbox, kind="response")]


def test_kill(sensor: Running) -> None:
    with sensor.sandbox(f"kill-{secrets.token_hex(4)}") as sandbox:
        bystander = sandbox.start("/usr/bin/sleep", "60")
        process = sandbox.start(*SLEEP)
        assert process.wait(timeout=20) == -signal.SIGKILL
        (done,) = sensor.wait(sandbox, kind="response", outcome="done")
        assert done["targets"] == [process.pid]
        assert 0 < done["latency_ns"] < 10_000_000_000
        assert responses(sensor, sandbox) == [("kill", "enforce", "intent"), ("kill", "enforce", "done")]
        assert bystander.poll() is None, "what did nothing wrong goes on"
        bystander.kill()
        bystander.wait()


def test_kill_takes_the_tree(sensor: Running) -> None:
    with sensor.sandbox(f"kill-{secrets.token_hex(4)}") as sandbox:
        code = "import os,time\nfor _ in range(3): os.fork()\ntime.sleep(60)"
        process = sandbox.start("/usr/bin/python3", "-I", "-S", "-c", code, "x-7-x")
        assert process.wait(timeout=20) == -signal.SIGKILL
        procs = sandbox.path / "cgroup.procs"
        sensor.until(lambda: not procs.read_text().split(), "all of the tree is dead")


def test_monitor_mode_logs_what_it_would_have_done(sensor: Running, sandbox: Sandbox) -> None:
    process = sandbox.start(*SLEEP)
    sensor.wait(sandbox, kind="detection")
    time.sleep(0.2)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert responses(sensor, sandbox) == [], "the default class answers with log, which is the detection itself"


def test_kill_sandbox(sensor: Running) -> None:
    with sensor.sandbox(f"whole-{secrets.token_hex(4)}") as sandbox:
        bystander = sandbox.start("/usr/bin/sleep", "60")
        process = sandbox.start(*SLEEP)
        assert process.wait(timeout=20) == -signal.SIGKILL
        assert bystander.wait(timeout=20) == -signal.SIGKILL
        (done,) = sensor.wait(sandbox, kind="response", outcome="done")
        assert done["action"] == "kill-sandbox"


def test_a_rule_s_response_is_announced_and_a_double_fork_does_not_escape_it(sensor: Running) -> None:
    """By then the detected process has ended, and what it left behind is init's child in a session of its own."""
    code = "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\ntime.sleep(60)"
    with sensor.sandbox(f"slow-{secrets.token_hex(4)}") as sandbox:
        bystander = sandbox.start("/usr/bin/sleep", "60")
        process = sandbox.start("/usr/bin/python3", "-I", "-S", "-c", code, "x-7-x")
        assert process.wait(timeout=20) == 0
        (announced,) = sensor.wait(sandbox, kind="response", outcome="announced")
        assert "in 1 s" in announced["reason"]
        (done,) = sensor.wait(sandbox, kind="response", outcome="done")
        assert len(done["targets"]) == 1 and process.pid not in done["targets"]
        procs = sandbox.path / "cgroup.procs"
        sensor.until(lambda: procs.read_text().split() == [str(bystander.pid)], "only the bystander is left")
        outcomes = [outcome for _, _, outcome in responses(sensor, sandbox)]
        assert outcomes == ["announced", "intent", "done"]
        bystander.kill()
        bystander.wait()


def test_disarmed_it_only_says_what_it_would_do(sensor: Running) -> None:
    def command(name: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "sensor.cli", name, "--reason", "a test", "--config", str(sensor.file)], check=True
        )

    with sensor.sandbox(f"kill-{secrets.token_hex(4)}") as sandbox:
        command("disarm")
        try:
            process = sandbox.start(*SLEEP)
            (would,) = sensor.wait(sandbox, kind="response", outcome="would")
            assert would["reason"] == "disarmed"
            assert process.poll() is None
            process.kill()
            process.wait()
        finally:
            command("arm")


def test_detections_reach_the_metrics(sensor: Running, sandbox: Sandbox) -> None:
    name = 'pinfold_detections_total{level="high",rule="7c1c9d0e-2f6b-4a55-9d5e-0c8f5f1d2a3b"}'
    before = sensor.metrics()[name]
    sandbox.run("/bin/true", "x-7-x")
    sensor.wait(sandbox, kind="detection")
    sensor.until(lambda: sensor.metrics()[name] == before + 1, "the counter went up by one")
