"""Quarantines over the kernel's own map: killed at any moment, taken up by the next, and by a command alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sensor.bpf.denials import Denials, Deny
from sensor.config import load
from sensor.errors import ActError
from sensor.respond.quarantine.offline import offline
from sensor.respond.quarantine.record import Record
from tests.live.peers.network import SERVER, Network
from tests.live.running import Running, Sandbox
from tests.respond.quarantine.quarantining import ALL, order

KILLS = 12  # packaging/bench has more
ENDS = {"operator": "uid 0", "reason": "enough"}

# Begins or ends a quarantine and goes on until it is over, or killed.
ACTS = """
import sys
from sensor.config import load
from sensor.respond.quarantine.offline import offline
from tests.respond.quarantine.quarantining import order
file, what, number, path = sys.argv[1:]
quarantines = offline(load(file), acting=True)
print("acting", flush=True)
if what == "add":
    quarantines.add(order(int(number), path))
elif (record := quarantines.of(int(number))) is not None and record.state == "held":
    quarantines.release(record.id, operator="uid 0", reason="enough")
quarantines.run(30)
quarantines.close()
"""


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    """Dead: what it pinned is there."""
    with Running(cache=rule_cache) as running:
        assert running.stop() == 0
        yield running


@pytest.fixture
def denials(sensor: Running) -> Denials:
    found = Denials.pinned("/sys/fs/bpf", sensor.instance)
    assert found is not None
    return found


def path_of(sensor: Running, box: Sandbox) -> str:
    return f"/{sensor.instance}/{box.name}"


def events(box: Sandbox) -> str:
    return (box.path / "cgroup.events").read_text()


def test_with_the_sensor_dead_a_command_begins_looks_and_ends(sensor: Running, denials: Denials) -> None:
    config = load(str(sensor.file))
    with sensor.sandbox() as box:
        process = box.start("/usr/bin/sleep", "60")
        quarantines = offline(config, acting=True)
        record = quarantines.add(order(box.id, path_of(sensor, box), evidence=False))
        assert denials.get(box.id) == ALL
        quarantines.run(20)
        assert record.state == "held" and "frozen 1" in events(box)
        with pytest.raises(ActError, match="acts on the quarantines now"):
            offline(config, acting=True)
        quarantines.close()
        looking = offline(config, acting=False)
        assert [each.id for each in looking.records()] == [record.id]
        with pytest.raises(ActError):
            looking.release(record.id, **ENDS)
        looking.close()
        again = offline(config, acting=True)
        again.release(record.id, **ENDS)
        again.run(20)
        assert again.get(record.id).state == "released"
        assert denials.get(box.id) == Deny(0) and "frozen 0" in events(box)
        record = again.add(order(box.id, path_of(sensor, box), evidence=False))
        again.run(20)
        again.kill(record.id, **ENDS)
        again.run(20)
        assert again.get(record.id).state == "killed" and process.wait() == -signal.SIGKILL
        assert denials.all() == {}
        again.close()


def states(sensor: Running) -> list[Record]:
    looking = offline(load(str(sensor.file)), acting=False)
    assert looking.damaged == []
    records = looking.records()
    looking.close()
    return records


def test_killed_at_any_moment_ledger_and_kernel_agree_after_the_next_start(sensor: Running, denials: Denials) -> None:
    chance = random.Random(7)  # noqa: S311 - the moments of the kills, and no secret
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with sensor.sandbox() as box:
        box.start("/usr/bin/sleep", "600")
        path = path_of(sensor, box)

        def act(what: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", ACTS, str(sensor.file), what, str(box.id), path]
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

        for turn in range(KILLS):
            what = ("add", "release")[turn % 2]
            with act(what) as process:
                assert process.stdout is not None and process.stdout.readline() == b"acting\n"
                time.sleep(chance.random() * 0.25)  # the moment
                process.kill()
            # The next one finishes what was begun; asked again, it is done if it was never begun.
            with act(what) as process:
                assert process.wait(timeout=60) == 0
            living = [each for each in states(sensor) if not each.over]
            if what == "add":
                assert [each.state for each in living] == ["held"], "none lost, none doubled, none stuck"
                assert denials.all() == {box.id: ALL} and "frozen 1" in events(box)
            else:
                assert living == []
                assert denials.all() == {} and "frozen 0" in events(box)


PEER = """
import socket, sys, time
ends = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(5)]
print("connected", flush=True)
time.sleep(60)
"""


def test_the_peer_sees_the_reset_though_the_network_is_denied(sensor: Running, denials: Denials) -> None:
    """In a namespace of the sandbox's own, whose packets the kernel drops already."""
    import socket  # noqa: PLC0415

    with Network() as network, sensor.sandbox() as box:
        server = network.outside.call(lambda: socket.create_server((SERVER, 0)))
        arguments = ("/usr/bin/python3", "-I", "-S", "-c", PEER, SERVER, str(server.getsockname()[1]))
        process = network.inside.call(lambda: box.start(*arguments, stdout=subprocess.PIPE))
        try:
            assert process.stdout is not None and process.stdout.readline() == b"connected\n"
            ends = [server.accept()[0] for _ in range(5)]
            quarantines = offline(load(str(sensor.file)), acting=True)
            record = quarantines.add(order(box.id, path_of(sensor, box), evidence=False))
            quarantines.run(20)
            assert record.step("sockets").detail.startswith("5 destroyed, 0 gone already"), record.step("sockets")
            for end in ends:
                end.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    end.recv(1)
                end.close()
            quarantines.kill(record.id, **ENDS)
            quarantines.run(20)
            assert record.state == "killed"
            quarantines.close()
        finally:
            process.kill()
            process.wait()
            server.close()
    assert denials.all() == {}
