"""Every tunnel and miner of tests/live/peers is detected, and the benign set is silent: one configuration, shipped
levels. Tunnels a second time with nothing but the rules on derived events, under other names and on random ports."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.live.peers.benign import BENIGN
from tests.live.peers.mining import HEARD, mining
from tests.live.peers.network import RESOLVER, Network
from tests.live.peers.tunnels import TUNNELS
from tests.live.running import Line, Running, Sandbox

RULES = Path(__file__).resolve().parents[2] / "rules"
ALARMING = frozenset({"medium", "high", "critical"})
SETTINGS = f"dns: {{{{resolvers: [{RESOLVER}]}}}}\n"
# Whoever set a tunnel up comes back later: data that comes in first after such a pause is what a relay is known by
# (flows.pause_ms is one second). The pause is part of what is done here, not waited for.
PAUSE_S = 1.2
BANNERS = [name for name in TUNNELS if name.startswith("ssh-") or name in {"autossh", "dbclient", "paramiko"}]
SCRATCH = "Executable in a scratch folder, or hidden, connects outward"  # where these tests keep their copies


def derived() -> list[Path]:
    found = []
    for path in sorted(RULES.rglob("*.yml")):
        document = yaml.safe_load(path.read_bytes())
        if document.get("logsource", {}).get("category") == "network_behavior":
            found.append(path)
    return found


@pytest.fixture(scope="module")
def everything(rule_cache: str) -> Iterator[Running]:
    """With all rules that pinfold ships."""
    with Running(SETTINGS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def behaviors() -> Iterator[Running]:
    """With the rules on derived events alone."""
    paths = ", ".join(str(path) for path in derived())
    with Running(f"{SETTINGS}rules: {{{{paths: [{paths}]}}}}\n") as running:
        yield running


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def alarms(sensor: Running, box: Sandbox) -> list[Line]:
    return [
        line
        for line in sensor.of(box, kind="detection")
        if line["rule"]["level"] in ALARMING and line["rule"]["title"] != SCRATCH
    ]


@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnel_is_detected_by_its_first_connection(
    everything: Running, network: Network, tmp_path: Path, name: str
) -> None:
    with everything.sandbox() as box, TUNNELS[name](network, box, tmp_path, renamed=False, port=0) as tunnel:
        if name in BANNERS:
            everything.wait(box, kind="detection", category="network_protocol", ApplicationProtocol="ssh")
        time.sleep(PAUSE_S)
        assert tunnel.use() == tunnel.page
        everything.until(lambda: alarms(everything, box), f"{name} detected")


@pytest.mark.parametrize("name", TUNNELS)
def test_a_tunnel_is_detected_by_what_it_does_alone(
    behaviors: Running, network: Network, tmp_path: Path, name: str
) -> None:
    with behaviors.sandbox() as box, TUNNELS[name](network, box, tmp_path, renamed=True, port=network.port()) as tunnel:
        time.sleep(PAUSE_S)
        assert tunnel.use() == tunnel.page
        found = behaviors.until(lambda: alarms(behaviors, box), f"{name} detected")
    assert {line["category"] for line in found} == {"network_behavior"}
    assert found[0]["Score"] >= 50
    assert found[0]["ScoreParts"]
    assert found[0]["Cookies"]


@pytest.mark.parametrize(("split", "renamed"), [("whole", False), ("bytes", True), ("keys", True)])
@pytest.mark.parametrize("dialect", HEARD)
def test_a_miner_is_detected_by_what_it_says(
    everything: Running, network: Network, tmp_path: Path, dialect: str, split: str, renamed: bool
) -> None:
    """However its lines are cut, under any name, on any port."""
    with (
        everything.sandbox() as box,
        mining(network, box, tmp_path, dialect, split=split, renamed=renamed, port=network.port()) as work,
    ):
        work.works()
        (behavior, *_) = everything.wait(box, category="network_behavior", Behavior="mining_session")
        everything.wait(box, kind="detection", category="network_protocol")
    assert behavior["Score"] >= 60
    protocols = {line["ApplicationProtocol"] for line in everything.of(box, category="network_protocol")}
    assert protocols & {"stratum", "stratum2", "getblocktemplate"}


@pytest.mark.parametrize("name", BENIGN)
def test_ordinary_work_raises_nothing_above_low(
    everything: Running, network: Network, tmp_path: Path, name: str
) -> None:
    with everything.sandbox() as box:
        BENIGN[name](network, box, tmp_path)
        everything.settled(box)
        time.sleep(PAUSE_S)  # detectors look once a second, and what they would say comes before the next marker
        everything.settled(box)
        assert [(line["rule"]["title"], line["CommandLine"][:80]) for line in alarms(everything, box)] == []
        assert everything.of(box, category="process_creation")


def test_nothing_was_lost_on_the_way(everything: Running) -> None:
    """Of DNS, iodine sends more in a second than is told: that is counted, and its own."""
    assert {name for name in everything.lost() if 'reason="datagrams"' not in name} == set()
    assert everything.said() == ""
