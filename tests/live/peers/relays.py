"""Reverse relays without SSH: the sandbox's end dials out and waits, the outside's end joins it with a client.

In socat's and ncat's the inner connection is dialled together with the outer one, before any client came: neither can
wait for bytes first. The others dial when the first bytes arrive.
"""

from __future__ import annotations

from pathlib import Path

from tests.live.peers.certificate import make_certificate
from tests.live.peers.network import SERVER
from tests.live.peers.programs import Program, find, until
from tests.live.peers.tunnel import LIBRARIES, LOOPBACK, SCRIPTS, Stage, Tunnel, joined, output_of

RELAY = Path(__file__).parents[2] / "workloads" / "relay.c"


def start_joiner(stage: Stage, mode: str) -> None:
    """Of scripts/joiner.py."""
    arguments = [mode, SERVER, str(stage.port), str(stage.entry)]
    if mode != "plain":
        arguments.append(str(make_certificate(stage.folder / "certificate")))
    python = ["/usr/bin/python3", str(SCRIPTS / "joiner.py")]
    joiner = stage.outside(*python, *arguments, env=LIBRARIES)
    for port in (stage.port, stage.entry):
        stage.network.listens(stage.network.outside, port, joiner)


def waiting(stage: Stage, program: Program) -> Tunnel:
    """Once the sandbox's end is connected."""
    until(lambda: stage.network.inside.connected(stage.port), "the relay's connection", (program,))
    return stage.tunnel(program)


def looped(stage: Stage, *argv: str) -> Program:
    """The usual shell loop around a program that serves one connection."""
    return stage.inside("/bin/sh", "-c", f"while :; do {joined(argv)}; sleep 0.02; done")


def socat(stage: Stage) -> Tunnel:
    start_joiner(stage, "plain")
    ends = (f"TCP:{SERVER}:{stage.port},forever,interval=0.1", f"TCP:{LOOPBACK}:{stage.service}")
    return waiting(stage, looped(stage, stage.program("socat"), *ends))


def ncat(stage: Stage) -> Tunnel:
    start_joiner(stage, "plain")
    program = stage.program("ncat")
    inner = joined((program, LOOPBACK, str(stage.service)))
    return waiting(stage, looped(stage, program, "--exec", inner, SERVER, str(stage.port)))


def c_relay(stage: Stage) -> Tunnel:
    start_joiner(stage, "plain")
    program = stage.folder / "relay"
    output_of(find("cc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-static", "-o", str(program), str(RELAY))
    return waiting(stage, stage.inside(stage.copied(str(program)), SERVER, str(stage.port), str(stage.service)))


def python_tls(stage: Stage) -> Tunnel:
    start_joiner(stage, "tls")
    script = stage.python("relay_tls.py")
    return waiting(stage, stage.inside(*script, SERVER, str(stage.port), str(stage.service)))


def python_websocket(stage: Stage) -> Tunnel:
    start_joiner(stage, "websocket")
    script = stage.python("relay_websocket.py", libraries=True)
    return waiting(stage, stage.inside(*script, SERVER, str(stage.port), str(stage.service), env=LIBRARIES))
