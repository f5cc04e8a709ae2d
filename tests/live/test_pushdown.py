"""What no rule can match stays in the kernel, counted; what one can is sent, from the reload on that loaded it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.running import Running, Sandbox
from tests.live.test_reload import reload

CONFIG = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/mine']}}
log: {{unmatched: false}}
sandboxes:
  - {{path: "{instance}/gpu-*", class: gpu}}
classes:
  gpu: {{mode: enforce, granted_devices: ["nvidia"]}}
"""
RULE = """
title: {title}
id: {id}
level: high
status: test
logsource: {{category: {category}, product: linux}}
detection:
  sel: {{{selection}}}
  condition: sel
"""
CONNECT = """
import socket, sys, time
until = time.monotonic() + 3
while time.monotonic() < until:
    for port in map(int, sys.argv[1:]):
        with socket.socket() as it:
            it.connect_ex(("127.0.0.1", port))
    time.sleep(0.01)
"""
OPEN = (
    "import os, sys\nfor _ in range(20):\n    try: os.close(os.open(sys.argv[1], os.O_RDWR))\n    except OSError: pass"
)
DEVICES, CONNECTS = (
    f'pinfold_events_unsent_total{{category="{category}"}}' for category in ("device_access", "network_connection")
)


def rule(sensor: Running, number: int, category: str, selection: str) -> None:
    folder = sensor.home / "mine"
    folder.mkdir(exist_ok=True)
    text = RULE.format(
        title=f"rule {number}", id=f"00000000-0000-4000-8000-{number:012}", category=category, selection=selection
    )
    (folder / f"{number}.yml").write_text(text)


@pytest.fixture
def sensor() -> Iterator[Running]:
    made = Running(config=CONFIG)
    rule(made, 1, "device_access", "DeviceClass: nvidia, Granted: false")
    rule(made, 2, "network_connection", "DestinationPort: 8022")
    with made:
        yield made


def opened(sensor: Running, box: Sandbox, node: Path, unsent: int) -> None:
    """Waits until that many more were counted."""
    before = sensor.metrics().get(DEVICES, 0)
    box.python(OPEN, str(node))
    sensor.until(lambda: sensor.metrics().get(DEVICES, 0) >= before + unsent, "opens are counted")
    sensor.settled(box)


def test_granted_opens_are_counted_until_a_rule_wants_them(sensor: Running, tmp_path: Path) -> None:
    """Without a driver here the open fails behind our verdict, which is the same."""
    node = tmp_path / "nvidia0"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(195, 0))
    with sensor.sandbox(f"gpu-{unique()}") as box:
        opened(sensor, box, node, unsent=20)
        assert not sensor.of(box, category="device_access")
        assert sensor.of(box, category="process_creation")
        rule(sensor, 3, "device_access", "DeviceClass: nvidia")
        reload(sensor, "done")
        opened(sensor, box, node, unsent=0)
        lines = sensor.wait(box, category="device_access")
        assert lines[0]["Verdict"] == "allowed"
        sensor.wait(box, kind="detection")
        (sensor.home / "mine" / "3.yml").unlink()
        reload(sensor, "done")
        opened(sensor, box, node, unsent=20)


def test_refused_opens_are_always_sent(sensor: Running, tmp_path: Path) -> None:
    node = tmp_path / "nvidia0"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(195, 0))
    with sensor.sandbox() as box:
        box.python(OPEN, str(node))
        assert sensor.wait(box, category="device_access")[0]["Granted"] is False
        sensor.wait(box, kind="detection")


def test_repeats_of_connects_are_counted_but_for_wanted_ports(sensor: Running) -> None:
    with sensor.sandbox() as box:
        box.python(CONNECT, "8022", "8023")
        sensor.until(lambda: sensor.metrics().get(CONNECTS, 0) >= 2, "repeats are counted")
        sensor.settled(box)
        lines = sensor.of(box, category="network_connection")
        assert [line["Repeat"] for line in lines if line["DestinationPort"] == 8023] == [False]
        assert True in [line["Repeat"] for line in lines if line["DestinationPort"] == 8022]


def test_a_start_over_what_an_earlier_run_left_tests_itself_and_leaves_out_again(
    sensor: Running, tmp_path: Path
) -> None:
    sensor.stop()
    sensor.start()
    node = tmp_path / "nvidia0"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(195, 0))
    with sensor.sandbox(f"gpu-{unique()}") as box:
        opened(sensor, box, node, unsent=20)
        assert not sensor.of(box, category="device_access")
