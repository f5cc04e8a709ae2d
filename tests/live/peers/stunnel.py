"""stunnel in front of sshd: on the wire it is TLS, and the ssh in the sandbox connects to loopback only."""

from __future__ import annotations

from tests.live.peers.certificate import make_certificate
from tests.live.peers.network import SERVER
from tests.live.peers.ssh import forward, standing, start_sshd
from tests.live.peers.tunnel import LOOPBACK, Stage, Tunnel

COMMON = "foreground = yes\npid =\nsyslog = no\n"


def stunnel_ssh(stage: Stage) -> Tunnel:
    network = stage.network
    sshd = start_sshd(stage, network.port())
    server, client = stage.folder / "server.conf", stage.folder / "client.conf"
    certificate = make_certificate(stage.folder / "certificate")
    server.write_text(
        f"{COMMON}[ssh]\naccept = {SERVER}:{stage.port}\nconnect = {SERVER}:{sshd.port}\ncert = {certificate}\n"
    )
    local = network.port()
    client.write_text(f"{COMMON}[ssh]\nclient = yes\naccept = {LOOPBACK}:{local}\nconnect = {SERVER}:{stage.port}\n")
    outside = stage.outside("/usr/bin/stunnel4", str(server))
    network.listens(network.outside, stage.port, outside)
    inside = stage.inside(stage.program("stunnel4"), str(client))
    network.listens(network.inside, local, inside)
    ssh = stage.inside(
        stage.program("ssh"), *sshd.options(), "-o", f"HostKeyAlias={SERVER}", "-N", "-R", forward(stage),
        "-p", str(local), f"{sshd.login}@{LOOPBACK}",
    )  # fmt: skip
    return standing(stage, inside, ssh)
