"""A stub miner in the sandbox and a stub pool outside, in every dialect; nothing is mined, nobody is paid."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.live.peers.certificate import make_certificate
from tests.live.peers.network import OTHER, Network
from tests.live.peers.programs import Program, until
from tests.live.peers.tunnel import OURS, SCRIPTS, Stage
from tests.live.running import Sandbox

# By dialect, what the pool hears from a miner at work, in order of first hearing.
HEARD: dict[str, tuple[str, ...]] = {
    "bitcoin": ("mining.subscribe", "mining.authorize", "mining.extranonce.subscribe", "mining.submit"),
    "ethereum-stratum": ("mining.subscribe", "mining.authorize", "mining.submit", "eth_submitHashrate"),
    "eth-proxy": ("eth_submitLogin", "eth_getWork", "eth_submitWork", "eth_submitHashrate"),
    "monero": ("login", "submit", "keepalived"),
    "named-params": ("mining.subscribe", "mining.authorize", "mining.submit"),
    "getblocktemplate": ("getblocktemplate", "submitblock"),
    "stratum2": ("handshake", "frame"),
}
USUAL_PORT = 3333


@dataclass(frozen=True)
class Mining:
    dialect: str
    pool: Program
    miner: Program
    peer: tuple[str, int]
    tally: Path

    def heard(self, method: str) -> int:
        """How many messages of that method the pool has had."""
        return self.tally.read_text().splitlines().count(method) if self.tally.exists() else 0

    def works(self) -> None:
        """Wait until the pool has heard everything that the dialect has."""
        for method in HEARD[self.dialect]:
            until(partial(self.heard, method), f"{method} at the pool", (self.pool, self.miner))


@contextmanager
def mining(
    network: Network,
    sandbox: Sandbox,
    folder: Path,
    dialect: str,
    *,
    tls: bool = False,
    split: str = "whole",
    spaced: bool = False,
    renamed: bool = False,
    port: int = USUAL_PORT,
    job_s: float = 0.25,
    keepalive_s: float = 0.1,
    burn: bool = False,
) -> Iterator[Mining]:
    """`split` is one of wire.SPLITS, and both ends' writes are cut so; `spaced`: with white space in the JSON. An hour
    of keepalives is as long as `job_s` and `keepalive_s` make it."""
    with ExitStack() as ending:
        stage = Stage(network, sandbox, folder, renamed=renamed, port=port, ending=ending)
        tally = stage.folder / "tally"
        common = {"address": OTHER, "port": port, "dialect": dialect, "split": split, "spaced": spaced}
        certificate = str(make_certificate(stage.folder / "certificate")) if tls else ""
        settings = {
            "pool": {**common, "certificate": certificate, "job_s": job_s, "tally": str(tally)},
            "miner": {**common, "tls": tls, "keepalive_s": keepalive_s, "burn": burn},
        }
        for name, chosen in settings.items():
            (stage.folder / f"{name}.json").write_text(json.dumps(chosen))
        pool = stage.outside("/usr/bin/python3", str(SCRIPTS / "pool.py"), str(stage.folder / "pool.json"), env=OURS)
        network.listens(network.outside, port, pool)
        script = stage.python("miner.py", libraries=True)
        miner = stage.inside(*script, str(stage.folder / "miner.json"), env=OURS)
        yield Mining(dialect, pool, miner, (OTHER, port), tally)
