"""Quarantines with the daemon dead: straight on the pins, the ledger and cgroupfs."""

from __future__ import annotations

import os
import sys

from sensor.bpf.denials import Denials
from sensor.config import Config
from sensor.enrich.sandboxes.cgroupfs import find_cgroup2_mount
from sensor.errors import ActError
from sensor.metrics import Metrics
from sensor.respond.quarantine.engine import Quarantines
from sensor.respond.table import Host, Known


class NoTable:
    """Without records of the kernel nothing is known but what cgroupfs and the ledger say."""

    def get(self, tgid: int) -> Known | None:
        return None

    def in_sandbox(self, sandbox_id: int) -> tuple[Known, ...]:
        return ()


def offline(config: Config, *, acting: bool) -> Quarantines:
    """:param acting: False to look only; then nothing is locked, and nothing changed.
    :raises ActError: somebody else acts, most likely the daemon, which lives after all.
    :raises HostError: the ledger's folder cannot be trusted, or there is no cgroup2.
    """
    denials = Denials.pinned(config.paths.bpffs, config.instance)
    host = Host(NoTable(), lambda _: None, lambda: (os.getppid(),), find_cgroup2_mount(), config.paths.state)
    quarantines = Quarantines(host, denials, config.quarantine, Metrics(), lambda *_, **__: None)
    if not acting:
        quarantines.read()
        return quarantines
    for line in quarantines.recover():
        print(f"pinfold: {line}", file=sys.stderr)
    if not quarantines.acting:
        quarantines.close()
        raise ActError("the daemon, or another command, acts on the quarantines now: ask the daemon, or try again")
    return quarantines
