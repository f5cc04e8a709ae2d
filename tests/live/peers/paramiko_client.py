"""A script with paramiko, to OpenSSH's server: no program of ours is called ssh."""

from __future__ import annotations

from tests.live.peers.network import SERVER
from tests.live.peers.programs import until
from tests.live.peers.ssh import standing, start_sshd
from tests.live.peers.tunnel import LIBRARIES, Stage, Tunnel


def paramiko(stage: Stage) -> Tunnel:
    sshd = start_sshd(stage)
    where = (SERVER, str(stage.port), sshd.login, str(sshd.key), SERVER, str(stage.entry), str(stage.service))
    script = stage.python("paramiko_forward.py", libraries=True)
    client = stage.inside(*script, *where, env=LIBRARIES)
    until(lambda: "forwarding" in client.said(), "the forwarding", (client,))
    return standing(stage, client)
