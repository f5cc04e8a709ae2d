"""`pinfold disarm` lifts everything that is refused, with the daemon alive, stopped or dead; `arm` restores it."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator

import pytest

from tests.live.names import unique
from tests.live.operating import Row, audits, end, pinfold, quarantine
from tests.live.peers.network import SERVER, Network
from tests.live.running import Running
from tests.live.working import ALL, Worker, worker

SETTINGS = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
sandboxes:
  - {{path: "{instance}/walled-*", class: walled}}
  - {{path: "{instance}/cut-*", class: cut}}
classes:
  cut: {{mode: enforce, denied_protocols: [stratum]}}
  walled:
    mode: enforce
    granted_devices: []
    egress: {{default: deny}}
    denied_executables: {{paths: [/usr/bin/true]}}
"""
REFUSED, ALLOWED = ["EPERM", "EPERM", "-9"], ["ok"] * 3
WHY = ("--reason", "it is in the way")


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=SETTINGS, cache=rule_cache) as running:
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


def arrives(box: Worker, server: socket.socket) -> bool:
    """Whether a pool's peer is heard to the end."""
    assert box.do("connect") == ["ok"]
    peer, heard = server.accept()[0], b""
    with peer:
        box.do("mine")
        peer.settimeout(0.5)
        try:
            while b"\n" not in heard and (part := peer.recv(1024)):
                heard += part
        except (TimeoutError, ConnectionResetError):
            pass
    return b"mining.subscribe" in heard


@pytest.mark.parametrize("core", ["alive", "stopped", "dead"])
def test_nothing_is_refused_until_it_is_armed_again(
    sensor: Running, network: Network, server: socket.socket, core: str
) -> None:
    place = server.getsockname()
    with (
        worker(sensor, network, place, name=f"walled-{unique()}") as walled,
        worker(sensor, network, place, name=f"cut-{unique()}") as cut,
        worker(sensor, network, place) as held,
    ):
        record = quarantine(sensor, held.name, "--no-freeze", "--no-evidence")

        def refused() -> None:
            assert walled.do(*ALL) == REFUSED
            assert held.do(*ALL) == REFUSED
            assert not arrives(cut, server)

        refused()
        known = len(told(sensor))
        process = sensor.process
        assert process is not None
        try:
            if core == "dead":
                sensor.stop(signal.SIGKILL)
            elif core == "stopped":
                process.send_signal(signal.SIGSTOP)
            pinfold(sensor, "disarm", *WHY)
            assert walled.do(*ALL) == ALLOWED
            assert held.do(*ALL) == ALLOWED
            for _ in range(2):
                server.accept()[0].close()
            assert arrives(cut, server)
            if core != "stopped":
                status = pinfold(sensor, "status", "-o", "json", status=5 if core == "dead" else 0).row
                assert "disarmed: nothing is refused, nobody is killed" in status["findings"]
            pinfold(sensor, "arm", *WHY)
            refused()
        finally:
            if core == "stopped":
                process.send_signal(signal.SIGCONT)
            elif core == "dead":
                pinfold(sensor, "arm", *WHY)
                sensor.start()
        sensor.until(lambda: len(told(sensor)) >= known + 2, "both are audited")
        for line, operation in zip(told(sensor)[known:], ("disarm", "arm"), strict=False):
            assert (line["operation"], line["uid"], line["outcome"]) == (operation, 0, "done")
            assert line["reason"] == "it is in the way"
        refused()
        assert end(sensor, "release", record["id"])["state"] == "released"
        assert held.do(*ALL) == ALLOWED
        server.accept()[0].close()


def told(sensor: Running) -> list[Row]:
    """By the daemon, and by the command where it acted alone; oldest first."""
    alone = sensor.home / "state" / "audit.jsonl"
    lines = [json.loads(line) for line in alone.read_text().splitlines()] if alone.exists() else []
    lines += [line for operation in ("disarm", "arm") for line in audits(sensor, operation)]
    return sorted(lines, key=lambda line: str(line["time"]))


def test_a_reason_is_needed_and_a_dry_run_does_nothing(sensor: Running) -> None:
    assert "a reason is needed" in pinfold(sensor, "disarm", status=2).err
    assert pinfold(sensor, "disarm", "--dry-run").err
    assert pinfold(sensor, "status", "-o", "json").row["armed"] is True
