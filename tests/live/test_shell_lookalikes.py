"""What looks like a reverse shell and is none, with all rules: nothing at medium or above. One that is one, too."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.live.peers.network import ALLOWED, SANDBOX, SERVER, Network
from tests.live.peers.outing import HTTPS, LLM, NAMES, outing
from tests.live.peers.programs import Program, find, until
from tests.live.peers.ssh import CONFIG as SSHD
from tests.live.peers.ssh import Sshd, make_key
from tests.live.peers.tunnel import SCRIPTS
from tests.live.running import CONFIG, Running, Sandbox
from tests.live.test_reverse_shells import COMMANDS, PAUSE_S, PYTHON, SETTINGS, accused, renamed, scores, use

LISTED = CONFIG.replace("sandboxes:", 'sandboxes:\n  - {{path: "{instance}/listed-*", class: listed}}') + (
    f"  listed: {{{{egress: {{{{default: deny, allow: [{{{{to: {ALLOWED}}}}}]}}}}}}}}\n"
)


@pytest.fixture(scope="module")
def shipped(rule_cache: str) -> Iterator[Running]:
    """With all rules."""
    with Running(SETTINGS, config=LISTED, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def test_with_all_rules_too(shipped: Running, network: Network, tmp_path: Path) -> None:
    with shipped.sandbox() as box, use(network, box, tmp_path, "socat-tls", renamed(tmp_path)).peer:
        accused(shipped, box)


def silent(sensor: Running, box: Sandbox, *, below: int = 50) -> None:
    sensor.settled(box)
    assert max(scores(sensor, box), default=0) < below
    loud = sensor.of(box, kind="detection", rule=lambda rule: rule["level"] in {"medium", "high", "critical"})
    assert [(line["rule"]["title"], line["CommandLine"]) for line in loud] == []


@pytest.fixture
def box(shipped: Running) -> Iterator[Sandbox]:
    with shipped.sandbox() as made:
        yield made


CHATTER = """
import socket, sys
s = socket.create_connection((sys.argv[1], 443))
while s.recv(100):
    s.sendall(b"ok")
"""
TICKER = """
import socket, sys, time
with socket.create_server((sys.argv[1], 443)) as server:
    peer, _ = server.accept()
    with peer:
        while True:
            time.sleep(0.25)
            peer.sendall(bytes(40))
            peer.recv(100)
"""


@pytest.fixture
def pushed_to(network: Network, box: Sandbox) -> Iterator[None]:
    """Another program of the sandbox is sent something all the time, in no protocol that is known."""
    ticker = network.start_outside([*PYTHON, TICKER, SERVER])
    network.listens(network.outside, 443, ticker)
    client = network.start_inside(box, [*PYTHON, CHATTER, SERVER])
    yield
    client.stop()
    ticker.stop()


TYPED = "for n in 1 2 3 4 5; do expr $n + 1; sleep 0.3; done"


@pytest.mark.usefixtures("pushed_to")
def test_a_terminal_recorder_and_a_multiplexer(
    shipped: Running, box: Sandbox, network: Network, tmp_path: Path
) -> None:
    recorded = network.start_inside(box, [find("script"), "-qc", TYPED, "/dev/null"], cwd=tmp_path)
    tmux = [find("tmux"), "-S", str(network.folder / "tmux"), "-f", "/dev/null", "new-session", "-d"]
    network.start_inside(box, [*tmux, f"{TYPED}; touch {tmp_path}/done"], env={"TERM": "xterm"}).finish()
    until((tmp_path / "done").exists, "what tmux runs")
    assert "6" in recorded.finish()
    silent(shipped, box)


@pytest.mark.usefixtures("pushed_to")
@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
def test_a_shell_that_was_let_in(shipped: Running, box: Sandbox, terminal: bool) -> None:
    """As `docker exec` does, with -t and without: whoever holds the other end is no process of the sandbox."""
    here, there = pty.openpty() if terminal else (-1, -1)
    streams = there if terminal else subprocess.PIPE
    shell = box.start("/bin/bash", stdin=streams, stdout=streams, stderr=subprocess.STDOUT)
    into, out = (here, here) if terminal else (shell.stdin, shell.stdout)
    assert into is not None and out is not None
    into, out = (fd if isinstance(fd, int) else fd.fileno() for fd in (into, out))
    for number in range(1, 6):
        time.sleep(PAUSE_S)
        os.write(into, b"expr 40000 + %d\n" % number)
        said = b""
        while b"%d" % (40_000 + number) not in said:
            assert select.select([out], [], [], 20)[0]
            said += os.read(out, 4096)
    silent(shipped, box)
    shell.kill()
    shell.wait()
    for fd in (here, there) if terminal else ():
        os.close(fd)
    for pipe in (shell.stdin, shell.stdout):
        if pipe is not None:
            pipe.close()


AGENT = """
import http.client, os, ssl, subprocess, sys
host, authority, keeps, alpn, scripts = sys.argv[1:]
sys.path.insert(0, scripts)
from agent import ask
from bash_session import BashSession

class Piped:
    def __init__(self):
        self.bash = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def run(self, command):
        print(command, file=self.bash.stdin, flush=True)
        return self.bash.stdout.readline()

context = ssl.create_default_context(cafile=authority)
if alpn:
    context.set_alpn_protocols([alpn])
llm = http.client.HTTPSConnection(host, context=context, timeout=30)
session = BashSession() if keeps == "terminal" else Piped()
messages, said = [{"role": "user", "content": "How much is it?"}], ""
while True:
    text, tool = ask(llm, messages)
    if not tool:
        break
    said = session.run(tool)
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": said}]
print(said.split()[-1], len(messages))
"""


@pytest.mark.parametrize(("keeps", "alpn"), [("pipes", "http/1.1"), ("terminal", "http/1.1"), ("terminal", "")])
def test_an_agent_that_keeps_a_shell(
    keeps: str, alpn: str, shipped: Running, box: Sandbox, network: Network, tmp_path: Path
) -> None:
    """It reads a stream over TLS that ends with a command, time and again. One that does not even name HTTP in its
    hello is told of, as low."""
    turns = 5
    with outing(network, box, tmp_path) as out:
        script = ["/usr/bin/python3", "-I", "-S", str(SCRIPTS / "llm.py")]
        llm = out.stage.outside(*script, NAMES[LLM], str(HTTPS), str(out.certificate), "expr 40 + 2", "0.4", str(turns))
        network.listens(network.outside, HTTPS, llm)
        said = out.run("/usr/bin/python3", "-c", AGENT, LLM, str(out.authority), keeps, alpn, str(SCRIPTS))
        assert said.split() == ["42", str(1 + 2 * turns)]
        silent(shipped, box, below=50 if alpn else 60)


def test_a_login_from_outside(shipped: Running, box: Sandbox, network: Network, tmp_path: Path) -> None:
    """To an sshd in the sandbox, with a terminal."""
    port, folder = network.port(), network.folder
    key, config = folder / "login", folder / "sshd_config"
    for path in (key, folder / "host"):
        make_key(path)
    text = SSHD.format(port=port, address=SANDBOX, folder=folder).replace(f"{folder}/authorized", f"{key}.pub")
    config.write_text(f"{text}PermitRootLogin prohibit-password\n")
    # As root, sshd wants a folder that only its service makes.
    run = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec {find('sshd')} -D -e -f {config}"
    server = network.start_inside(box, [find("unshare"), "-m", "sh", "-c", run])
    network.listens(network.inside, port, server)
    options = ["-F", "/dev/null", "-i", str(key), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no"]
    known = ["-o", f"UserKnownHostsFile={folder}/known"]
    login = [find("ssh"), *options, *known, "-tt", "-p", str(port), f"root@{SANDBOX}"]
    client = network.start_outside(login, stdin=subprocess.PIPE)
    assert client.process.stdin is not None
    for number in range(1, COMMANDS + 1):
        time.sleep(PAUSE_S)
        client.process.stdin.write(b"expr 40000 + %d\n" % number)
        client.process.stdin.flush()
        until(partial(said_by, client, str(40_000 + number)), "an answer", (client, server))
    shipped.settled(box)
    assert max(scores(shipped, box), default=0) < 50
    client.stop()


def said_by(program: Program, what: str) -> bool:
    return what in program.said()


def test_a_command_on_a_host_that_is_allowed(shipped: Running, network: Network) -> None:
    sshd = Sshd(network, network.port(), address=ALLOWED, login="build")
    with shipped.sandbox("listed-a") as box:
        for number in range(3):
            ssh = [find("ssh"), *sshd.options(), *sshd.destination(), f"expr 40 + {number}"]
            assert network.start_inside(box, ssh).finish().split()[-1] == str(40 + number)
        shipped.settled(box)
        assert shipped.of(box, category="network_behavior") == []
    sshd.program.stop()
