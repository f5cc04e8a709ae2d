"""Reloads under load: what every policy denies is never allowed in between; packaging/bench has a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from sensor.config import load
from tests.live.reloading import DIGEST, KINDS, config, policy, reload_again_and_again

RELOADS = 30


def test_what_every_policy_denies_is_denied_all_the_time(rule_cache: str, workloads: Path) -> None:
    report = reload_again_and_again(RELOADS, workloads, cache=rule_cache)
    assert report.wrong == []
    assert report.through == dict.fromkeys(KINDS, 0)
    assert report.arrived == 0
    assert all(report.tried.values()), report  # how often is a matter of how busy the machine is


@pytest.mark.parametrize("number", range(12))
def test_the_policies_are_what_they_are_said_to_be(tmp_path: Path, number: int) -> None:
    """Each gives the prober's sandbox a class that denies all of it."""
    file = tmp_path / "pinfold.yaml"
    head = config("/dev/shm/x/pinfold-denied").partition("sandboxes:\n")[0]
    values = {"instance": "a", "home": tmp_path, "cache": tmp_path, "port": 9}
    file.write_text(head.format(**values) + policy(number, "/dev/shm/x/pinfold-denied").replace("INSTANCE", "a"))
    read = load(str(file))
    names = [pattern.class_ for pattern in read.sandboxes if "probed" in pattern.path]
    names += [rule.class_ for rule in read.assign]
    for name in names:
        one = read.classes[name]
        assert (one.mode, one.egress.default) == ("enforce", "deny")
        assert "ssh" in one.denied_protocols and "nvidia" not in one.granted_devices
        assert DIGEST in one.denied_executables.sha256
        assert any(path.endswith("pinfold-denied") for path in one.denied_executables.paths)
