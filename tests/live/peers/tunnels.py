"""Every tunnel by name: `with TUNNELS[name](network, sandbox, folder) as tunnel: tunnel.use()`."""

from __future__ import annotations

from tests.live.peers import dropbear, iodine, paramiko_client, relays, ssh, stunnel, tunvpn, wireguard
from tests.live.peers.tunnel import EVERYWHERE, Maker, making

TUNNELS: dict[str, Maker] = {
    "ssh-22": making(ssh.plain, 22),
    "ssh-443": making(ssh.plain, 443),
    "ssh-controlmaster": making(ssh.control_master, 22),
    "ssh-config-file": making(ssh.config_file, 22),
    "ssh-reverse-socks": making(ssh.reverse_socks, 443),
    "autossh": making(ssh.autossh, 22),
    "ssh-renamed": making(ssh.plain, 443, renamed=True),
    "dbclient": making(dropbear.dbclient, 22),
    "paramiko": making(paramiko_client.paramiko, 443),
    "socat": making(relays.socat, 443),
    "ncat": making(relays.ncat, 4444),
    "c-relay": making(relays.c_relay, 8443),
    "python-tls": making(relays.python_tls, 443),
    "python-websocket": making(relays.python_websocket, 443),
    "stunnel-ssh": making(stunnel.stunnel_ssh, 443),
    "iodine": making(iodine.iodine, 53, served_at=EVERYWHERE),
    "wireguard-go": making(wireguard.wireguard_go, 51820, served_at=EVERYWHERE),
    "tun-vpn": making(tunvpn.tun_vpn, 1194, served_at=EVERYWHERE),
}
