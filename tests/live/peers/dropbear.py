"""Dropbear's client, to OpenSSH's server."""

from __future__ import annotations

from tests.live.peers.programs import find
from tests.live.peers.ssh import forward, standing, start_sshd
from tests.live.peers.tunnel import Stage, Tunnel, output_of


def dbclient(stage: Stage) -> Tunnel:
    sshd = start_sshd(stage)
    key = str(stage.folder / "dropbear")
    output_of(find("dropbearkey"), "-t", "ed25519", "-f", key)
    lines = output_of(find("dropbearkey"), "-y", "-f", key).splitlines()
    sshd.allow(next(line for line in lines if line.startswith("ssh-ed25519 ")))
    # -y twice: it neither reads nor writes the home's known_hosts.
    client = stage.inside(
        stage.program("dbclient"), "-y", "-y", "-i", key, "-N", "-R", forward(stage), *sshd.destination(),
        env={"HOME": str(stage.folder)},
    )  # fmt: skip
    return standing(stage, client)
