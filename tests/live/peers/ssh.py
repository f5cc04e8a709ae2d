"""OpenSSH: a real sshd outside, and the ways in which ssh opens a way back into the sandbox."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
from functools import partial
from pathlib import Path

from tests.live.peers.network import SERVER, Network
from tests.live.peers.programs import Program, find, until
from tests.live.peers.tunnel import LOOPBACK, Stage, Tunnel, output_of

# A user that every Debian has. As root, sshd wants /run/sshd, which only its service makes; as another user it logs in
# that user alone, and needs no shadow(5) entry, nor privilege separation.
OWNER = "backup"
CONFIG = """
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
UseDNS no
LogLevel VERBOSE
"""


class Sshd:
    """Listens when made. `login` gets in with `key`, and is `OWNER` under a name and with a shell of our choice."""

    def __init__(self, network: Network, port: int, *, address: str, login: str) -> None:
        self.network, self.address, self.port, self.login = network, address, port, login
        self.folder = network.folder / f"sshd-{secrets.token_hex(4)}"
        self.folder.mkdir(mode=0o711)
        self.key, self.known_hosts = self.folder / "key", self.folder / "known_hosts"
        self._make_files()
        self.program = self._start()
        network.listens(network.outside, port, self.program)

    def _make_files(self) -> None:
        host, config = self.folder / "host", self.folder / "sshd_config"
        for path in (host, self.key):
            make_key(path)
        public = host.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[{self.address}]:{self.port} {public}{self.address} {public}")
        config.write_text(CONFIG.format(port=self.port, address=self.address, folder=self.folder))
        (self.folder / "authorized").touch()
        self.allow(self.key.with_suffix(".pub").read_text())
        owner = pwd.getpwnam(OWNER)
        os.chown(host, owner.pw_uid, owner.pw_gid)
        # OWNER's own shell is nologin, and sshd runs every command by the shell.
        entry = f"{self.login}:x:{owner.pw_uid}:{owner.pw_gid}::{self.folder}:/bin/sh\n"
        (self.folder / "passwd").write_text(entry + Path("/etc/passwd").read_text())

    def _start(self) -> Program:
        drop = [find("setpriv"), f"--reuid={OWNER}", f"--regid={OWNER}", "--clear-groups", "--no-new-privs", "--"]
        sshd = [find("sshd"), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        return self.network.start_outside([*drop, *sshd], files={"/etc/passwd": self.folder / "passwd"})

    def allow(self, public_key: str) -> None:
        with (self.folder / "authorized").open("a") as file:
            file.write(public_key.rstrip() + "\n")

    def options(self) -> list[str]:
        """Of an ssh that is to get in, whatever is configured on this host."""
        return [
            "-F", "/dev/null", "-i", str(self.key), "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes",
            "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null",
        ]  # fmt: skip

    def destination(self) -> list[str]:
        return ["-p", str(self.port), f"{self.login}@{self.address}"]


def start_sshd(stage: Stage, port: int = 0, *, address: str = SERVER, login: str = OWNER) -> Sshd:
    """On the stage's port, unless told; it ends with the stage."""
    sshd = Sshd(stage.network, port or stage.port, address=address, login=login)
    stage.finally_do(sshd.program.stop)
    return sshd


def make_key(path: Path) -> None:
    output_of(find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path))


def forward(stage: Stage) -> str:
    """-R's argument."""
    return f"{SERVER}:{stage.entry}:{LOOPBACK}:{stage.service}"


def standing(stage: Stage, *programs: Program) -> Tunnel:
    stage.network.listens(stage.network.outside, stage.entry, *programs)
    return stage.tunnel(*programs)


def plain(stage: Stage) -> Tunnel:
    sshd = start_sshd(stage)
    ssh = [stage.program("ssh"), *sshd.options(), "-N", "-R", forward(stage), *sshd.destination()]
    return standing(stage, stage.inside(*ssh))


def control_master(stage: Stage) -> Tunnel:
    """The forwarding is asked for by a second ssh, which is gone when the tunnel is used."""
    sshd = start_sshd(stage)
    ssh, control = stage.program("ssh"), stage.folder / "control"
    shared = [*sshd.options(), "-o", f"ControlPath={control}"]
    master = stage.inside(ssh, *shared, "-M", "-N", *sshd.destination())
    until(control.exists, "the control socket", (master,))
    stage.inside(ssh, *shared, "-O", "forward", "-R", forward(stage), *sshd.destination()).finish()
    return standing(stage, master)


def config_file(stage: Stage) -> Tunnel:
    """Nothing on the command line says what it does."""
    sshd = start_sshd(stage)
    config = stage.folder / "config"
    config.write_text(
        f"Host build\n HostName {SERVER}\n Port {stage.port}\n User {sshd.login}\n IdentityFile {sshd.key}\n"
        f" UserKnownHostsFile {sshd.known_hosts}\n BatchMode yes\n ExitOnForwardFailure yes\n SessionType none\n"
        f" RemoteForward {SERVER}:{stage.entry} {LOOPBACK}:{stage.service}\n"
    )
    return standing(stage, stage.inside(stage.program("ssh"), "-F", str(config), "build"))


def reverse_socks(stage: Stage) -> Tunnel:
    """-R without a destination: the outside has a SOCKS proxy that dials from within the sandbox."""
    sshd = start_sshd(stage)
    remote = f"{SERVER}:{stage.entry}"
    ssh = stage.inside(stage.program("ssh"), *sshd.options(), "-N", "-R", remote, *sshd.destination())
    stage.network.listens(stage.network.outside, stage.entry, ssh)
    return stage.tunnel(ssh, fetch=partial(get_by_socks, stage))


def get_by_socks(stage: Stage) -> bytes:
    url = f"http://{LOOPBACK}:{stage.service}/"
    curl = [find("curl"), "-sS", "--max-time", "10", "--noproxy", "", "--socks5", f"{SERVER}:{stage.entry}", url]
    return stage.network.outside.call(lambda: subprocess.run(curl, check=True, capture_output=True)).stdout


def autossh(stage: Stage) -> Tunnel:
    sshd = start_sshd(stage)
    command = [stage.program("autossh"), "-M", "0", *sshd.options(), "-N", "-R", forward(stage), *sshd.destination()]
    environment = {"AUTOSSH_PATH": stage.program("ssh"), "AUTOSSH_GATETIME": "0", "TMPDIR": str(stage.folder)}
    return standing(stage, stage.inside(*command, env=environment))
