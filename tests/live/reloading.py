"""Policies that differ in everything but in what they deny, swapped again and again while a sandbox tries just that."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

from msgspec import Struct, field

from sensor.control.client import Client
from tests.live.names import unique
from tests.live.peers.hearing import Capture
from tests.live.peers.network import ALLOWED, SERVER, Network
from tests.live.peers.programs import Program, until
from tests.live.running import Running, Sandbox

RELOAD_S = 60.0
HEARD_S = 2.0  # longer than a prober waits
KINDS = ("destination", "device", "executable", "content", "protocol")
# A program that nobody else has.
CONTENT = Path("/bin/sleep").read_bytes() + b"pinfold"
DIGEST = hashlib.sha256(CONTENT).hexdigest()
UDP_PORT, TCP_PORT, SSH_PORT = 9000, 9001, 7022
HEAD = """\
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
log: {{max_bytes: 16777216, keep: 2}}
"""
# Tries its kind until SIGTERM; then how often, and how often it got through.
TRY = """
import errno, json, os, signal, socket, sys, time
kind, arguments = sys.argv[1], sys.argv[2:]
going = True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
os.nice(10)  # all the time there is, but not the sensor's

def destination(address, udp, tcp):
    for kind, port in ((socket.SOCK_DGRAM, udp), (socket.SOCK_STREAM, tcp)):
        with socket.socket(socket.AF_INET, kind) as s:
            s.setblocking(False)
            try:
                if kind == socket.SOCK_DGRAM:
                    s.sendto(b"through", (address, int(port)))
                else:
                    s.connect((address, int(port)))
            except OSError as error:
                if error.errno == errno.EPERM:
                    continue
            return True

def device(path):
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno != errno.EPERM  # without a driver a granted one is ENXIO
    return True

def executable(path):
    time.sleep(0.002)  # each is a record: what is told of the probers must not be all that is
    _, status = os.waitpid(os.posix_spawn(path, [path, "0"], {}), 0)
    return not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)

content = executable

def protocol(address, port):
    with socket.socket() as s:
        s.settimeout(0.5)  # its socket is destroyed by then, or its packets are dropped
        try:
            s.connect((address, int(port)))
            s.sendall(b"SSH-2.0-prober\\r\\n")
            return s.recv(1) != b""
        except OSError:
            return False

attempt = globals()[kind]
tried = through = 0
print("begins", flush=True)
while going:
    tried += 1
    through += bool(attempt(*arguments))
print(json.dumps([tried, through]), flush=True)
"""
PYTHON = ("/usr/bin/python3", "-I", "-S")


class Report(Struct):
    """`tried` and `through`: of each kind. `arrived`: what the peer got of it."""

    reloads: int = 0
    seconds: float = 0.0
    tried: dict[str, int] = field(default_factory=dict)
    through: dict[str, int] = field(default_factory=dict)
    arrived: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def successes(self) -> int:
        return sum(self.through.values()) + self.arrived + len(self.wrong)


# The policies.


def policy(number: int, denied: str) -> str:
    """The number's policy. Whatever class it gives the prober denies the same: an address, GPUs, `denied`, ssh."""
    turn = number % 6
    strict, others, assigned = "strict", [f"other{index}" for index in range(number % 3)], ""
    if turn == 1:
        strict = "after"  # the class of the pattern is another one
    elif turn == 2:
        others += [f"aaa{number % 50}-{index}" for index in range(12)]  # numbered before it, were it by name
    elif turn == 3:
        assigned = "    attributes: {purpose: probe}\n"
    elif turn == 4:
        strict = f"fresh{number % 7}"  # never the same class twice in a row
    elif turn == 5:
        strict = f"many{number}"  # more classes than there are numbers left for
        others = [f"many{number}-{index}" for index in range(54)]
    classes = [_strict(strict if not assigned else "assigned", number, denied)]
    if assigned:
        classes.append(_strict(strict, number + 1, denied))
    classes += [f"  {name}: {{mode: monitor, granted_devices: [nvidia, fuse, other]}}\n" for name in others]
    storm = ("monitor", "enforce")[number // 2 % 2]
    text = f'sandboxes:\n  - {{path: "INSTANCE/probed-*", class: {strict}}}\n'
    text += '  - {path: "INSTANCE/storm-*", class: storm}\n'
    text += f"classes:\n  storm: {{mode: {storm}}}\n" + "".join(classes)
    return text + (f"assign:\n  - class: assigned\n{assigned}" if assigned else "")


def _strict(name: str, number: int, denied: str) -> str:
    """As long as its lists are, they lead elsewhere."""
    elsewhere = "".join(
        f'      - {{to: 10.{number % 200}.{index}.0/24, ports: [443, "8000-8010"]}}\n'
        for index in range(number * 7 % 40)
    )
    narrow = number % 2
    network = f"{ALLOWED}/32" if narrow else "203.0.113.28/30"
    wide = "      - {to: 203.0.113.0/24, ports: [443]}\n" if number % 3 == 0 else ""
    paths = [denied, f"/nowhere/{number}"] if number % 4 < 2 else [os.path.basename(denied)]
    return (
        f"  {name}:\n    mode: enforce\n    when_unrecorded: allow\n"
        f"    granted_devices: {['[]', '[fuse]', '[kvm, other]'][number % 3]}\n"
        f"    denied_protocols: {['[ssh]', '[ssh, stratum]', '[socks, ssh, bore]'][number % 3]}\n"
        f"    denied_executables: {{paths: [{', '.join(paths)}], sha256: [{DIGEST}]}}\n"
        f"    egress:\n      default: deny\n      allow:\n"
        f"      - {{to: {network}, ports: [{SSH_PORT}]}}\n{wide}{elsewhere}"
    )  # fmt: skip


# Reloading.


class Reloads:
    """`with Reloads(sensor):` a reload is over when READY is said again."""

    def __init__(self, sensor: Running) -> None:
        self._sensor = sensor
        path = sensor.home / "notify"
        path.unlink(missing_ok=True)
        self._ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ready.bind(str(path))
        self._ready.settimeout(RELOAD_S)

    def __enter__(self) -> Reloads:
        return self

    def __exit__(self, *_: object) -> None:
        self._ready.close()

    def to(self, text: str) -> None:
        assert self._sensor.process is not None
        self._sensor.file.write_text(text)
        self._sensor.process.send_signal(signal.SIGHUP)
        while b"READY=1" not in self._ready.recv(4096):
            continue


def head_of(sensor: Running) -> str:
    return sensor.file.read_text().partition("sandboxes:\n")[0]


def config(denied: str) -> str:
    """Of the sensor at its start, for `Running(config=…)`."""
    first = policy(0, denied).replace("INSTANCE", "\0").replace("{", "{{").replace("}", "}}")
    return HEAD + first.replace("\0", "{instance}")


@contextlib.contextmanager
def tried_things() -> Iterator[tuple[str, str, str]]:
    """Programs denied by path and by content, and a GPU's node; whether a driver is there does not matter to who asks
    first."""
    folder = Path(f"/dev/shm/pinfold-{unique()}")
    folder.mkdir()
    try:
        denied, hashed, node = folder / "pinfold-denied", folder / "hashed", folder / "nvidia"
        shutil.copy("/bin/true", denied)
        hashed.write_bytes(CONTENT)
        hashed.chmod(0o755)
        os.mknod(node, 0o020666, os.makedev(195, 0))
        yield str(denied), str(hashed), str(node)
    finally:
        shutil.rmtree(folder)


def reload_again_and_again(count: int, workloads: Path, *, cache: str = "") -> Report:
    """A sensor of its own, a prober for each kind, and a storm beside them."""
    report = Report()
    with (
        tried_things() as (denied, hashed, node),
        Running(config=config(denied), cache=cache) as sensor,
        Network() as network,
    ):
        with sensor.sandbox(f"probed-{unique()}") as box, sensor.sandbox(f"storm-{unique()}") as storm:
            Client(str(sensor.home / "run" / "control.sock")).set_attributes(box.id, "a test", {"purpose": "probe"})
            # What it is, is known after it ran.
            sensor.until(
                lambda: box.run(hashed, "5") and box.run(hashed, "0").returncode == -signal.SIGKILL, "its hash"
            )
            with Capture(network) as outside, _Ears(network) as ears, _storm(storm, workloads):
                probers = _probers(network, box, denied, hashed, node)
                began = time.monotonic()
                with Reloads(sensor) as reloads:
                    for number in range(1, count + 1):
                        text = policy(number, denied).replace("INSTANCE", sensor.instance)
                        reloads.to(head_of(sensor) + text)
                report.seconds = time.monotonic() - began
                for kind, prober in probers.items():
                    prober.process.send_signal(signal.SIGTERM)
                    report.tried[kind], report.through[kind] = json.loads(prober.finish().splitlines()[-1])
                report.arrived = len(outside.to(SERVER, port=UDP_PORT)) + len(outside.to(SERVER, port=TCP_PORT))
                report.arrived += ears.whole
        metrics = sensor.metrics()
        report.reloads = int(metrics['pinfold_reloads_total{outcome="done"}'])
        if report.reloads != count:
            report.wrong.append(f"{count} reloads asked for, {report.reloads} done: {sensor.said()[-300:]}")
        if "Traceback" in sensor.said():
            report.wrong.append(sensor.said()[-500:])
    return report


def _probers(network: Network, box: Sandbox, denied: str, hashed: str, node: str) -> dict[str, Program]:
    kinds = {
        "destination": [SERVER, str(UDP_PORT), str(TCP_PORT)],
        "device": [node],
        "executable": [denied],
        "content": [hashed],
        "protocol": [ALLOWED, str(SSH_PORT)],
    }
    probers = {
        kind: network.start_inside(box, [*PYTHON, "-c", TRY, kind, *arguments]) for kind, arguments in kinds.items()
    }
    for prober in probers.values():
        until(lambda prober=prober: "begins" in prober.said(), "the prober", [prober])  # type: ignore[misc]
    return probers


@contextlib.contextmanager
def _storm(box: Sandbox, workloads: Path) -> Iterator[None]:
    """Execs and connects, as fast as one process of each goes with pauses: the reloads are to be under load, and not
    starved. Started again where its time is over."""
    stop = Event()

    def keep(*command: str) -> None:
        while not stop.is_set():
            with box.start(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                while process.poll() is None:
                    if stop.wait(0.05):
                        process.kill()

    commands = ([str(workloads / "execstorm"), "-P", "1", "-t", "200", "-i", "3000"],
                [str(workloads / "connectstorm"), "-P", "1", "-t", "200", "-n", "40000"])  # fmt: skip
    threads = [Thread(target=keep, args=command) for command in commands]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class _Ears:
    """The peer that may be reached, in every protocol but one. `whole`: how often that one's beginning came whole."""

    def __init__(self, network: Network) -> None:
        self._server = network.outside.call(lambda: socket.create_server((ALLOWED, SSH_PORT), backlog=64))
        self._peers: dict[socket.socket, tuple[float, bytes]] = {}
        self._stop = Event()
        self._thread = Thread(target=self._listen)
        self.whole = 0

    def __enter__(self) -> _Ears:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for peer in (*self._peers, self._server):
            peer.close()

    def _listen(self) -> None:
        while not self._stop.is_set():
            for each in select.select([self._server, *self._peers], [], [], 0.1)[0]:
                if each is self._server:
                    self._peers[each.accept()[0]] = (time.monotonic(), b"")
                else:
                    self._hear(each)
            for peer in [peer for peer, (since, _) in self._peers.items() if time.monotonic() > since + HEARD_S]:
                del self._peers[peer]
                peer.close()

    def _hear(self, peer: socket.socket) -> None:
        since, data = self._peers.pop(peer)
        try:
            piece = peer.recv(64)
        except OSError:
            piece = b""
        if (data + piece).startswith(b"SSH-"):
            self.whole += 1
            with contextlib.suppress(OSError):
                peer.sendall(b"x")
            piece = b""
        if piece:
            self._peers[peer] = (since, data + piece)
        else:
            peer.close()
