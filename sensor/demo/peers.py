"""The far side of the incident, in the outside namespace: a real sshd, and a stub pool on two ports.

All run as `backup`, a user that every Debian has: as root, sshd wants /run/sshd, which only its
service makes, and without PAM it refuses a root whose password is locked (as it does `nobody`,
for which nss-systemd makes up a locked entry).
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from sensor.demo import stubs
from sensor.demo.child import Child
from sensor.demo.network import POOL_ADDRESS, SSHD_ADDRESS, Network
from sensor.demo.undo import Undo

USER = "backup"
SSHD_PORT = 443  # where tunnels hide: most networks let it out
TUNNEL_PORT = 8022
POOL_PORT = 3333
QUIET_POOL_PORT = 443
TELLING = '"mining.'  # what makes a line Stratum
READY_SECONDS = 15.0
STUBS = Path(stubs.__file__).parent

SSHD_CONFIG = """
Port {port}
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
GatewayPorts clientspecified
LogLevel VERBOSE
"""

TUNNEL_SETTINGS = """
Host build
  HostName {sshd}
  Port {sshd_port}
  User {user}
  IdentityFile {key}
  UserKnownHostsFile {known_hosts}
  BatchMode yes
  ExitOnForwardFailure yes
  SessionType none
  RemoteForward {sshd}:{tunnel_port} 127.0.0.1:{local_port}
"""


class Peers:
    """sshd on SSHD_ADDRESS:443 and the pool on POOL_ADDRESS:3333 and :443, ready when this returns.

    `folder` must let that user through (mode 0711).
    """

    def __init__(self, network: Network, folder: Path, undo: Undo) -> None:
        self._network, self._folder = network, folder / "outside"
        self._folder.mkdir(mode=0o700)
        self.key, self.known_hosts = folder / "user", folder / "known_hosts"
        self._make_keys()
        sshd = [_program("sshd"), "-D", "-e", "-f", str(self._folder / "sshd_config")]
        self.sshd = self._start("sshd", sshd, undo)
        listeners = [(self.sshd, SSHD_PORT)]
        for port in (POOL_PORT, QUIET_POOL_PORT):
            pool = [
                sys.executable,
                "-I",
                str(self._folder / "pool.py"),
                POOL_ADDRESS,
                str(port),
                str(self._tally(port)),
            ]
            listeners.append((self._start(f"pool-{port}", pool, undo), port))
        for child, port in listeners:
            if not undo.until(partial(network.listening, network.outside, port), READY_SECONDS):
                raise OSError(f"{child.name} does not listen on port {port}: {child.last_line()}")

    def _make_keys(self) -> None:
        host = self._folder / "host"
        for path in (host, self.key):
            subprocess.run(
                [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "demo", "-f", str(path)], check=True
            )
        public = host.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[{SSHD_ADDRESS}]:{SSHD_PORT} {public}")
        (self._folder / "authorized").write_text(self.key.with_suffix(".pub").read_text())
        config = SSHD_CONFIG.format(port=SSHD_PORT, address=SSHD_ADDRESS, folder=self._folder)
        (self._folder / "sshd_config").write_text(config)
        shutil.copy(STUBS / "pool.py", self._folder)
        user = pwd.getpwnam(USER)
        for path in (self._folder, *self._folder.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)

    def _start(self, name: str, command: list[str], undo: Undo) -> Child:
        drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs", "--"]
        output = self._folder / f"{name}.log"
        return Child(name, [*self._network.enter(self._network.outside), *drop, *command], output, undo)

    def _tally(self, port: int) -> Path:
        return self._folder / f"tally-{port}"

    @property
    def ssh(self) -> str:
        return _program("ssh")

    def tunnel_command(self, local_port: int) -> list[str]:
        """An ssh that lets the outside reach the sandbox's loopback: the incident's own shape."""
        return [
            self.ssh, "-F", "/dev/null", "-i", str(self.key), "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "ExitOnForwardFailure=yes",
            "-N", "-R", f"{SSHD_ADDRESS}:{TUNNEL_PORT}:127.0.0.1:{local_port}",
            "-p", str(SSHD_PORT), f"{USER}@{SSHD_ADDRESS}",
        ]  # fmt: skip

    def tunnel_settings(self, local_port: int) -> str:
        """The same as a file, for `ssh -F FILE build`: the command line says nothing."""
        return TUNNEL_SETTINGS.format(
            sshd=SSHD_ADDRESS,
            sshd_port=SSHD_PORT,
            user=USER,
            key=self.key,
            known_hosts=self.known_hosts,
            tunnel_port=TUNNEL_PORT,
            local_port=local_port,
        )

    def fetch_through_tunnel(self) -> str:
        """What the outside gets from the tunnel's far end; "" where nothing answers."""
        url = f"http://{SSHD_ADDRESS}:{TUNNEL_PORT}/"
        curl = [_program("curl"), "--silent", "--fail", "--noproxy", "*", "--max-time", "5", url]
        command = [*self._network.enter(self._network.outside), *curl]
        return subprocess.run(command, check=False, capture_output=True, text=True).stdout

    def tunnel_open(self) -> bool:
        return self._network.listening(self._network.outside, TUNNEL_PORT)

    def logins(self) -> int:
        """How many authentications sshd has accepted."""
        return self.sshd.said().count("Accepted publickey for")

    def pool_heard(self, method: str, port: int) -> int:
        """How many messages of that Stratum method the pool has had there."""
        return sum(said["method"] == method for said in self._told(port))

    def pool_got(self, port: int) -> int:
        """Bytes that the pool has had of a line that broke off; 0 where none did."""
        broken = [len(said["text"]) for said in self._told(port) if said["method"] == "unfinished"]
        return broken[-1] if broken else 0

    def pool_needs(self, port: int) -> int:
        """How many bytes of a miner's first line tell that it is one, by a line that has come there whole."""
        lines = [str(said["text"]) for said in self._told(port) if said["method"] == "mining.subscribe"]
        return lines[0].index(TELLING) + len(TELLING) if lines else 0

    def _told(self, port: int) -> list[dict[str, Any]]:
        tally = self._tally(port)
        return [json.loads(line) for line in tally.read_text().splitlines()] if tally.exists() else []


def _program(name: str) -> str:
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: run packaging/start --demo, which installs it")
    return found
