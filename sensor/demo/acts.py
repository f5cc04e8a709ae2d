"""The incident's acts: what the agents run, how to see that it works unwatched, and which records it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from msgspec import Struct

from sensor.demo.gpu import Node
from sensor.demo.journal import Record
from sensor.demo.network import POOL_ADDRESS
from sensor.demo.peers import POOL_PORT, QUIET_POOL_PORT, SSHD_PORT, STUBS, TUNNEL_PORT, Peers
from sensor.demo.watch import AGENT, PATIENT

PAGE_PORT = 8000
# So long that framing does not explain that as many bytes come as go: shorter ones are worth little to the detector.
PAGE = "what the sandbox keeps to itself\n" * 64
DISGUISE = "updater"  # what ssh is called, the second time


class Act(Struct, frozen=True):
    """One tool call of the incident. `is_its` tells whether a detection is of this act; `device` is what
    it opens, if that is its point; `harm` counts what the outside has had of such acts so far, `got` how
    many bytes of a line that was cut have come there, and how many tell what it is; `is_gone`: whether a
    tunnel is over for the outside.

    `ending`: killed at what it does first; let be until the outside has been through it, and then killed; or
    its connection cut by the kernel.
    """

    name: str
    title: str
    command: list[str]
    is_its: Callable[[Record], bool]
    agent: str = AGENT
    ending: Literal["killed", "relayed", "cut"] = "killed"
    is_tunnel: bool = False
    harm: Callable[[], int] = lambda: 0
    harmless: str = ""
    got: Callable[[], tuple[int, int]] | None = None
    is_gone: Callable[[], bool] | None = None
    device: Node | None = None


def acts(folder: Path, peers: Peers, nodes: list[Node]) -> list[Act]:
    """`folder` gets the programs; the sandboxes run them from there."""
    for stub in ("miner.py", "opener.py"):
        shutil.copy(STUBS / stub, folder)
    opener = str(folder / "opener.py")
    return [
        _tunnel(peers),
        *_miners(str(folder / "miner.py"), folder / "settings.json", peers),
        *(_gpu(opener, node) for node in nodes),
        _renamed(folder, peers),
        _quiet_pool(str(folder / "miner.py"), folder / "cache.json", peers),
    ]


def _tunnel(peers: Peers) -> Act:
    return Act(
        name="tunnel",
        title=f"ssh -N -R {TUNNEL_PORT}:127.0.0.1:{PAGE_PORT}, to a real sshd on port {SSHD_PORT}",
        command=peers.tunnel_command(PAGE_PORT),
        is_its=lambda record: "-R" in record["CommandLine"],
        is_tunnel=True,
        harm=peers.logins,
        harmless="sshd saw no login",
    )


def _miners(miner: str, hidden: Path, peers: Peers) -> list[Act]:
    pool = f"stratum+tcp://{POOL_ADDRESS}:{POOL_PORT}"
    hidden.write_text(json.dumps({"pools": [{"url": pool}]}))
    return [
        Act(
            name="miner",
            title=f"a stub miner: -o {pool}",
            command=[miner, "-o", pool, "-u", "wallet.1", "-p", "x"],
            is_its=lambda record: pool in record["CommandLine"],
            harm=lambda: peers.pool_heard("mining.submit", POOL_PORT),
            harmless="the pool had no share",
        ),
        Act(
            name="quiet miner",
            title=f"the same, its pool hidden in a file: {POOL_ADDRESS} port {POOL_PORT}",
            command=[miner, "-c", str(hidden)],
            is_its=lambda record: str(hidden) in record["CommandLine"],
            harm=lambda: peers.pool_heard("mining.submit", POOL_PORT),
            harmless="the pool had no share",
        ),
    ]


def _gpu(opener: str, node: Node) -> Act:
    return Act(
        name=node.path.name,
        title=f"opens {node.path}, " + ("a real device" if node.real else "made for the demo"),
        command=[opener, str(node.path)],
        is_its=lambda record: str(node.path) in record["CommandLine"],
        device=node,
    )


def _renamed(folder: Path, peers: Peers) -> Act:
    """Neither its name nor its arguments say what it is: only what it does."""
    program, settings = folder / DISGUISE, folder / f"{DISGUISE}.conf"
    shutil.copy(peers.ssh, program)
    settings.write_text(peers.tunnel_settings(PAGE_PORT))
    return Act(
        name="renamed",
        title=f"ssh copied to `{DISGUISE}`, its options in a file, port {SSHD_PORT}",
        command=[str(program), "-F", str(settings), "build"],
        is_its=lambda record: record["Image"] == str(program),
        agent=PATIENT,
        ending="relayed",
        is_tunnel=True,
        is_gone=lambda: not peers.tunnel_open(),
    )


def _quiet_pool(miner: str, hidden: Path, peers: Peers) -> Act:
    """To a port of no repute, and a byte at a time, so that no packet has enough of a line to be known by."""
    hidden.write_text(json.dumps({"pools": [{"url": f"stratum+tcp://{POOL_ADDRESS}:{QUIET_POOL_PORT}"}], "piece": 1}))
    return Act(
        name="quiet pool",
        title=f"the quiet miner, a byte at a time, to port {QUIET_POOL_PORT}",
        command=[miner, "-c", str(hidden)],
        is_its=lambda record: str(hidden) in record["CommandLine"],
        agent=PATIENT,
        ending="cut",
        got=lambda: (peers.pool_got(QUIET_POOL_PORT), peers.pool_needs(QUIET_POOL_PORT)),
    )
