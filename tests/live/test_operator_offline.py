"""The operator's hand with the daemon killed: what it had begun is seen and ended, and the next daemon agrees."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from sensor.bpf.denials import Denials
from tests.cli.terminal import REPOSITORY
from tests.live.operating import WHY, begin, end, pinfold, quarantine
from tests.live.peers.network import SERVER, Network
from tests.live.running import Running
from tests.live.working import ALL, worker


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(cache=rule_cache) as running:
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


def test_what_was_held_is_seen_and_ended_without_a_daemon_and_the_next_one_agrees(
    sensor: Running, network: Network, server: socket.socket
) -> None:
    denials = Denials.pinned("/sys/fs/bpf", sensor.instance)
    assert denials is not None
    with ExitStack() as stack:
        names = ("released", "killed", "kept", "begun", "plain")
        boxes = {
            name: stack.enter_context(
                worker(sensor, network, server.getsockname(), "nested" if name == "killed" else "python")
            )
            for name in names
        }
        ids = {
            name: quarantine(sensor, boxes[name].name, "--no-evidence")["id"] for name in ("released", "killed", "kept")
        }
        # The daemon dies while this one has only begun.
        pinfold(sensor, "quarantine", "add", boxes["begun"].name, *WHY, "--no-wait")
        sensor.stop(signal.SIGKILL)

        status = pinfold(sensor, "status", "-o", "json", status=5).row
        assert "4 quarantines in force" in status["findings"]
        assert status["daemon"] == "does not answer" and status["ledger"] == "sound"
        assert set(status["denials"]) == {str(boxes[name].id) for name in ("released", "killed", "kept", "begun")}
        listed = {one["order"]["name"]: one for one in pinfold(sensor, "quarantine", "list", "-o", "json").rows}
        assert {boxes[name].name for name in ids} <= set(listed)
        ids["begun"] = listed[boxes["begun"].name]["id"]
        shown = pinfold(sensor, "quarantine", "describe", ids["kept"])
        assert "going on alone" in shown.err and boxes["kept"].name in shown.out
        pinfold(sensor, "quarantine", "add", boxes["plain"].name, *WHY, status=5)
        pinfold(sensor, "sandbox", "list", status=5)

        assert end(sensor, "release", boxes["released"].name)["state"] == "released"
        assert boxes["released"].do(*ALL) == ["ok"] * 3
        server.accept()[0].close()
        assert end(sensor, "kill", ids["killed"])["state"] == "killed"
        assert boxes["killed"].process.wait(20) == -signal.SIGKILL and boxes["killed"].living() == []
        done = pinfold(sensor, "kill", boxes["plain"].name, *WHY, "--yes", "-o", "json").row
        assert done["killed"] == [boxes["plain"].process.pid]
        assert boxes["plain"].process.wait(20) == -signal.SIGKILL
        assert set(denials.all()) == {boxes["kept"].id, boxes["begun"].id}

        sensor.start()
        sensor.until(
            lambda: {one["state"] for one in pinfold(sensor, "quarantine", "list", "-o", "json").rows} == {"held"},
            "what was begun is finished",
        )
        known = {one["id"]: one["state"] for one in pinfold(sensor, "quarantine", "list", "--all", "-o", "json").rows}
        wanted = {"released": "released", "killed": "killed", "kept": "held", "begun": "held"}
        assert known == {ids[name]: state for name, state in wanted.items()}, "none lost, none doubled"
        assert boxes["kept"].frozen and boxes["begun"].frozen
        assert set(denials.all()) == {boxes["kept"].id, boxes["begun"].id}
        row = pinfold(sensor, "sandbox", "describe", boxes["kept"].name, "-o", "json").row
        assert row["quarantine"] == ids["kept"]
        for name in ("kept", "begun"):
            assert end(sensor, "release", ids[name])["state"] == "released"
            assert boxes[name].do(*ALL) == ["ok"] * 3
            server.accept()[0].close()
        assert denials.all() == {}


def test_a_daemon_that_starts_while_a_command_acts_takes_over_when_it_is_done(
    sensor: Running, network: Network, server: socket.socket
) -> None:
    with worker(sensor, network, server.getsockname()) as box:
        record = quarantine(sensor, box.name, "--no-evidence")
        sensor.stop(signal.SIGKILL)
        command = begin(sensor, "quarantine", "release", record["id"], *WHY, "--yes", "-o", "json")
        sensor.start()
        out, err = command.communicate(timeout=60)
        # Whoever came first: the other one says so, or goes on with it.
        if command.returncode:
            assert b"Traceback" not in err and b"acts on the quarantines" in err, (out, err)
            end(sensor, "release", record["id"])
        sensor.until(
            lambda: pinfold(sensor, "quarantine", "describe", record["id"], "-o", "json").row["state"] == "released",
            "the daemon knows of it",
        )
        assert box.do(*ALL) == ["ok"] * 3
        server.accept()[0].close()


def test_who_is_not_root_is_told_so(sensor: Running) -> None:
    sensor.home.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-m", "sensor.cli", "quarantine", "list"],
        cwd=REPOSITORY,
        env={**os.environ, "PINFOLD_CONFIG": str(sensor.file), "HOME": "/"},
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "be root" in done.stderr and len(done.stderr.splitlines()) == 1
