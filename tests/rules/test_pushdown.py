"""What the kernel may leave out: never anything that a loaded rule could match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.rules.engine import Engine
from sensor.rules.pushdown import DEVICES, Pushdown
from sensor.rules.ruleset import Ruleset, load
from sensor.rules.testing import activity
from tests.rules.helpers import build, rule_text

RULES = Path(__file__).resolve().parents[2] / "rules"


def left_out(pushdown: Pushdown, category: str, event: dict[str, Any]) -> bool:
    """As probes/device.bpf.c and probes/socket.bpf.c decide."""
    if event.get("Verdict") != "allowed":
        return False
    if category == "device_access":
        return event["DeviceClass"] in pushdown.devices
    if not event.get("Repeat") or event.get("Protocol") == "unix":
        return False
    ports = pushdown.local if event["DestinationIsLoopback"] else pushdown.outward
    return ports is not None and event["DestinationPort"] not in ports


def pushdown_of(detection: str, category: str) -> Pushdown:
    ruleset = build(rule_text(detection, category))
    assert ruleset.refused == ()
    return ruleset.pushdown


@pytest.mark.parametrize(
    ("detection", "kept"),
    [
        ("sel: {DeviceClass: nvidia, Granted: false}\ncondition: sel", set()),
        ("sel: {DeviceClass: nvidia}\ncondition: sel", {"nvidia"}),
        ("sel: {DeviceClass|startswith: nv}\ncondition: sel", {"nvidia"}),
        ("sel: {DeviceClass: nvidia}\ncondition: not sel", set(DEVICES) - {"nvidia"}),
        ("sel: {DeviceClass: [kvm, TUN], Access|contains: write}\ncondition: sel", {"kvm", "tun"}),
        ("a: {DeviceClass: fuse}\nb: {Verdict: refused}\ncondition: a and b", set()),
        ("a: {DeviceClass: fuse}\nb: {Verdict: refused}\ncondition: a or b", {"fuse"}),
        ("sel: {DeviceClass|re: '^v'}\ncondition: sel", set(DEVICES)),
        ("sel: {Image|endswith: /python}\ncondition: sel", set(DEVICES)),
    ],
)
def test_granted_opens_that_a_rule_wants(detection: str, kept: set[str]) -> None:
    assert set(DEVICES) - set(pushdown_of(detection, "device_access").devices) == kept


@pytest.mark.parametrize(
    ("detection", "local", "outward"),
    [
        ("sel: {DestinationPort: [22, 3333]}\ncondition: sel", (22, 3333), (22, 3333)),
        ("sel: {DestinationPort: 22, DestinationIsLoopback: false}\ncondition: sel", (), (22,)),
        ("sel: {DestinationPort|gte: 1, DestinationPort|lt: 4}\ncondition: sel", (1, 2, 3), (1, 2, 3)),
        ("sel: {DestinationPort|startswith: '22'}\ncondition: sel", None, None),
        ("a: {DestinationPort: 22}\ncondition: not a", None, None),
        ("sel: {DestinationIp|cidr: 169.254.0.0/16, DestinationPort: 80}\ncondition: sel", (), (80,)),
        ("sel: {DestinationIp|cidr: 0.0.0.0/0, DestinationPort: 80}\ncondition: sel", (80,), (80,)),
        ("sel: {DestinationIp: '::1', DestinationPort: 80}\ncondition: sel", (80,), (80,)),
        ("sel: {DestinationPath|endswith: docker.sock}\ncondition: sel", (), ()),
        ("sel: {Verdict: refused}\ncondition: sel", (), ()),
        ("sel: {Repeat: false}\ncondition: sel", (), ()),
        ("sel: {DestinationHostname|endswith: .test}\ncondition: sel", None, None),
    ],
)
def test_repeated_connects_that_a_rule_wants(
    detection: str, local: tuple[int, ...] | None, outward: tuple[int, ...] | None
) -> None:
    found = pushdown_of(detection, "network_connection")
    assert (found.local, found.outward) == (local, outward)


def test_what_a_detector_counts_is_wanted_once_a_rule_asks_for_the_detector() -> None:
    scan = build(rule_text("sel: {Behavior: fan_out}\ncondition: sel", "network_behavior")).pushdown
    assert (scan.local, scan.outward) == (None, None)
    tunnel = build(rule_text("sel: {Behavior|startswith: tun}\ncondition: sel", "network_behavior")).pushdown
    assert set(DEVICES) - set(tunnel.devices) == {"tun"}
    assert tunnel.outward == ()


@pytest.fixture(scope="module")
def shipped() -> Ruleset:
    return load([RULES], None)


def test_shipped_rules_leave_granted_gpus_to_the_kernel(shipped: Ruleset) -> None:
    assert {"nvidia", "amd", "fuse"} <= set(shipped.pushdown.devices)
    assert "tun" not in shipped.pushdown.devices


PORTS = st.sampled_from([0, 1, 22, 80, 443, 3333, 4444, 8080, 65535]) | st.integers(0, 65535)
ADDRESSES = {"127.0.0.1": True, "127.9.9.9": True, "::1": True, "169.254.169.254": False, "10.1.2.3": False}
TEXTS = st.sampled_from(["", "/usr/bin/python3", "/tmp/.x", "nvidia", "allowed", "pool.test", "22"])
CONNECTS = st.builds(
    lambda ip, port, image, repeat, host: {
        "DestinationIp": ip,
        "DestinationPort": port,
        "DestinationIsLoopback": ADDRESSES[ip],
        "DestinationIsPrivate": True,
        "DestinationHostname": host,
        "Protocol": "tcp",
        "Initiated": True,
        "Verdict": "allowed",
        "Repeat": repeat,
        "Image": image,
    },
    st.sampled_from(sorted(ADDRESSES)),
    PORTS,
    TEXTS,
    st.booleans(),
    TEXTS,
)
OPENS = st.builds(
    lambda device, access, image, verdict: {
        "DeviceClass": device,
        "Access": access,
        "Image": image,
        "Verdict": verdict,
        "Granted": verdict == "allowed",
        "GpuGranted": verdict == "allowed" and device == "nvidia",
    },
    st.sampled_from(DEVICES),
    st.sampled_from(["read", "write", "read,write", "mknod"]),
    TEXTS,
    st.sampled_from(["allowed", "refused", "would_refuse"]),
)
ITEMS = st.sampled_from([
    "DestinationPort: 22", "DestinationPort|lt: 1024", "DestinationPort|gte: 4444", "DestinationPort|contains: '3'",
    "DestinationIp|cidr: 127.0.0.0/8", "DestinationIp: 169.254.169.254", "DestinationIp|startswith: '10.'",
    "DestinationIsLoopback: true", "DestinationIsLoopback: false", "Verdict: allowed", "Repeat: true",
    "DestinationHostname: ''", "Image|endswith: /python3", "Image|re: '^/tmp/'", "DestinationPath: null",
    "Protocol: tcp", "Initiated: false", "DestinationIp|exists: true",
])  # fmt: skip
CONDITIONS = st.sampled_from(["a and b", "a or b", "not a and b", "not (a or b)", "a and not b", "not a or not b"])


@settings(max_examples=40)
@given(ITEMS, ITEMS, CONDITIONS, st.lists(CONNECTS, min_size=5, max_size=20))
def test_no_rule_matches_a_connect_that_is_left_out(
    first: str, second: str, condition: str, events: list[dict[str, Any]]
) -> None:
    ruleset = build(rule_text(f"a: {{{first}}}\nb: {{{second}}}\ncondition: {condition}", "network_connection"))
    assert ruleset.refused == ()
    engine = Engine(ruleset)
    for event in events:
        if left_out(ruleset.pushdown, "network_connection", event):
            assert engine.match(activity("network_connection", event)) == ()


@settings(max_examples=40)
@given(st.lists(OPENS, min_size=20, max_size=60), st.lists(CONNECTS, min_size=20, max_size=60))
def test_no_shipped_rule_matches_what_is_left_out(
    shipped: Ruleset, opens: list[dict[str, Any]], connects: list[dict[str, Any]]
) -> None:
    engine = Engine(shipped)
    for category, events in (("device_access", opens), ("network_connection", connects)):
        for event in events:
            if left_out(shipped.pushdown, category, event):
                assert engine.match(activity(category, event)) == ()
