"""One GPU of several: granted by its number, while its kind is not."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.names import unique
from tests.live.running import Running

CONFIG = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
sandboxes:
  - {{path: "{instance}/one-*", class: one}}
classes:
  one: {{mode: enforce, granted_devices: ["nvidia:1"]}}
"""
OPEN = """
import errno, json, sys
told = []
for path in sys.argv[1:]:
    try:
        open(path, "rb").close()
        told.append("ok")
    except OSError as error:
        told.append(errno.errorcode[error.errno])
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(config=CONFIG, cache=rule_cache) as running:
        yield running


def test_its_own_gpu_and_the_drivers_control_nodes_and_no_other(sensor: Running, tmp_path: Path) -> None:
    """There is no driver here: what is let through fails with ENXIO, what is refused with EPERM."""
    nodes = {"nvidia0": 0, "nvidia1": 1, "nvidia2": 2, "nvidiactl": 255}
    for name, minor in nodes.items():
        os.mknod(tmp_path / name, stat.S_IFCHR | 0o666, os.makedev(195, minor))
    with sensor.sandbox(f"one-{unique()}") as box:
        found = json.loads(box.python(OPEN, *(str(tmp_path / name) for name in nodes)).stdout)
        assert found == ["EPERM", "ENXIO", "EPERM", "ENXIO"]
        lines = sensor.wait(box, category="device_access", DeviceClass="nvidia", count=4)
        assert {line["DeviceMinor"]: line["Granted"] for line in lines} == {0: False, 1: True, 2: False, 255: True}
