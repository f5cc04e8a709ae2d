"""The shipped rules about files and system calls, each by what it is about really done, by a program and by none."""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.filing import Shell, contained
from tests.live.running import Running, Sandbox
from tests.live.test_system_calls import NOBODY, did

# Each variant is to be told by itself.
OPTIONS = """
rules: {{fold_seconds: 0}}
files: {{events_a_second: 2000}}
"""
# What an image has, before anybody looks. The pins are of a bpffs of its own.
BEFORE = """
r=$1/root; h=$r/home/agent
mkdir -p $r/{etc/pinfold,var/log/pinfold,etc/sudoers.d,etc/modprobe.d,etc/apt/apt.conf.d,etc/profile.d,trainer}
mkdir -p $r/{host,sys/fs/bpf,run/secrets/kubernetes.io/serviceaccount}
mkdir -p $h/{.ssh,.aws,.codex,.claude,.config/systemd/user,.git/hooks,.local/lib/python3.11/site-packages}
mount --bind {shared} $r/host && mkdir -p $r/host/etc $r/host/repo/.git/hooks
mount -t bpf pins $r/sys/fs/bpf && mkdir -p $r/sys/fs/bpf/pinfold
for f in .ssh/id_ed25519 .aws/credentials .codex/auth.json .bash_history; do echo x > $h/$f; done
echo x > $r/run/secrets/kubernetes.io/serviceaccount/token
echo x > $r/etc/pinfold/pinfold.yaml; echo x > $r/var/log/pinfold/events.jsonl
"""
# Title, path, line. A line's programs and redirections are looked for in the root of its own.
FILES = [
    ("The files of accounts are written by an ordinary program", "/etc/passwd", "echo >> /etc/passwd"),
    ("The files of accounts are written by an ordinary program", "/etc/group", "sed -i s/root/root/ /etc/group"),
    ("Rights of sudo, doas or polkit are written", "/etc/sudoers.d/a", "echo > /etc/sudoers.d/a"),
    ("Rights of sudo, doas or polkit are written", "/etc/doas.conf", "cp /etc/hostname /etc/doas.conf"),
    ("A module or rule of the login stack is written", "/etc/pam.d/common-auth", "echo >> /etc/pam.d/common-auth"),
    (
        "A module or rule of the login stack is written",
        "/usr/lib/x86_64-linux-gnu/security/pam_a.so",
        "cp /bin/true /usr/lib/x86_64-linux-gnu/security/pam_a.so",
    ),
    (
        "A file that every Python runs at its start is written",
        "/usr/lib/python3/dist-packages/sitecustomize.py",
        "echo > /usr/lib/python3/dist-packages/sitecustomize.py",
    ),
    (
        "A file that every Python runs at its start is written",
        "/home/agent/.local/lib/python3.11/site-packages/usercustomize.py",
        "echo > a; mv a ~/.local/lib/python3.11/site-packages/usercustomize.py",
    ),
    ("A program of the system is written by an ordinary program", "/usr/bin/pytest", "cp /bin/true /usr/bin/pytest"),
    ("A program of the system is written by an ordinary program", "/usr/bin/ls", "cat /bin/true > /usr/bin/ls"),
    ("A program of the system is renamed", "/usr/bin/top.real", "mv /usr/bin/top /usr/bin/top.real"),
    ("A program of the system is renamed", "/usr/bin/ps.real", "python3 -c 'import os; os.chdir(\"/usr/bin\");"
     " os.rename(\"ps\", \"ps.real\")'"),
    ("Mode, owner or times of a system program are changed", "/usr/bin/find", "chmod u+s /usr/bin/find"),
    ("Mode, owner or times of a system program are changed", "/usr/bin/env", "touch -d 2001-01-01 /usr/bin/env"),
    ("A log of the system is deleted", "/var/log/wtmp", "rm /var/log/wtmp"),
    ("A log of the system is rewritten by an ordinary program", "/var/log/lastlog", ": > /var/log/lastlog"),
    ("A rule of udev or a module's option is written", "/etc/modprobe.d/a.conf", "echo > /etc/modprobe.d/a.conf"),
    ("A unit of systemd is written", "/etc/systemd/system/a.service", "echo > /etc/systemd/system/a.service"),
    (
        "A unit of systemd is written",
        "/home/agent/.config/systemd/user/a.timer",
        "cp /etc/hostname ~/.config/systemd/user/a.timer",
    ),
    ("A hook of the package manager is written", "/etc/apt/apt.conf.d/99a", "echo > /etc/apt/apt.conf.d/99a"),
    ("A script of logins or of the shells of everybody is written", "/etc/profile.d/a.sh", "> /etc/profile.d/a.sh"),
    ("The configuration of the SSH server or client is written", "/home/agent/.ssh/config", "echo > ~/.ssh/config"),
    ("The configuration of a package manager is written", "/home/agent/.npmrc", "echo > ~/.npmrc"),
    ("The search path of libraries is changed", "/etc/ld.so.conf", "echo >> /etc/ld.so.conf"),
    ("The resolution of names is changed", "/etc/nsswitch.conf", "echo >> /etc/nsswitch.conf"),
    (
        "The resolution of names of the host or of others is changed",
        "/host/etc/hosts",
        "echo '192.0.2.1 example.org' > /host/etc/hosts",
    ),
    ("A shell's history file is deleted or replaced", "/home/agent/.bash_history", "rm ~/.bash_history"),
    ("A file of the trainer is changed from within a sandbox", "/trainer/reward", "echo 1 > /trainer/reward"),
    ("A file of the trainer is deleted from within a sandbox", "/trainer/reward", "rm /trainer/reward"),
    ("A private key is read", "/home/agent/.ssh/id_ed25519", "cat ~/.ssh/id_ed25519 > /dev/null"),
    ("A private key is read", "/home/agent/.ssh/id_ed25519", "read -r key < ~/.ssh/id_ed25519"),
    ("Credentials of a cloud are read", "/home/agent/.aws/credentials", "cp ~/.aws/credentials /tmp/a"),
    ("Credentials of a model's provider are read", "/home/agent/.codex/auth.json", "wc ~/.codex/auth.json > /tmp/a"),
    (
        "A service account's token is read",
        "/run/secrets/kubernetes.io/serviceaccount/token",
        "read -r token < /run/secrets/kubernetes.io/serviceaccount/token",
    ),
    ("A hook of git is written", "/home/agent/.git/hooks/post-merge",
     "echo > ~/.git/hooks/post-merge"),
    ("Standing instructions of a coding agent are written", "/home/agent/CLAUDE.md", "echo > ~/CLAUDE.md"),
    ("A file of the sensor is written from within a sandbox", "/etc/pinfold/policy.yaml",
     "echo > /etc/pinfold/policy.yaml"),
    ("A file of the sensor is written from within a sandbox", "/sys/fs/bpf/pinfold/a", "mkdir /sys/fs/bpf/pinfold/a"),
    ("Attributes of a file of the sensor are changed from within a sandbox", "/etc/pinfold/pinfold.yaml",
     "chmod 666 /etc/pinfold/pinfold.yaml"),
    ("A file of the sensor is renamed from within a sandbox", "/var/log/pinfold/old",
     "mv /var/log/pinfold/events.jsonl /var/log/pinfold/old"),
    ("A file of the sensor is deleted from within a sandbox", "/var/log/pinfold/old", "rm /var/log/pinfold/old"),
    ("A file of the sensor is deleted from within a sandbox", "/sys/fs/bpf/pinfold/a", "rmdir /sys/fs/bpf/pinfold/a"),
]  # fmt: skip


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with Running(OPTIONS, cache=rule_cache) as running:
        yield running


@pytest.fixture(scope="module")
def container(sensor: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shared = tmp_path_factory.mktemp("shared")
    with sensor.sandbox() as box:
        before = BEFORE.replace("{shared}", str(shared))
        with contained(sensor, box, tmp_path_factory.mktemp("root"), before) as shell:
            yield shell.watched()


def own(path: str) -> str:
    """/bin and /var/run are links, and either name is as good."""
    return path.removeprefix("/usr").removeprefix("/var")


def detected(sensor: Running, box: Sandbox, title: str, past: frozenset[str] = frozenset(), path: str = "") -> bool:
    """Whether the rule of this title was told, of a path where one is named, and not in a detection of the `past`."""
    lines = sensor.of(box)
    paths = {line["id"]: own(line.get("TargetFilename", "")) for line in lines if line["kind"] == "event"}
    return any(
        line["rule"]["title"] == title and (not path or paths.get(line["event"]) == own(path))
        for line in lines
        if line["kind"] == "detection" and line["id"] not in past
    )


@pytest.mark.parametrize(("title", "path", "line"), FILES, ids=[f"{path}-{line[:12]}" for _, path, line in FILES])
def test_what_is_done_to_a_file(container: Shell, title: str, path: str, line: str) -> None:
    sensor, box = container.sensor, container.box
    past = frozenset(line["id"] for line in sensor.of(box, kind="detection"))
    container.do(line)
    sensor.until(lambda: detected(sensor, box, title, past, path), title)


def test_a_hook_in_a_repository_of_the_host(container: Shell) -> None:
    """Once its working directory was looked at."""
    title = "A hook or the configuration of a repository that others share is written"

    def told() -> bool:
        container.do("cd /host/repo; /bin/true; echo > .git/hooks/post-merge; cd")
        return detected(container.sensor, container.box, title, path="/host/repo/.git/hooks/post-merge")

    container.sensor.until(told, title)


CALLED = [
    ("The clock of the host is set", 0, "assert call(164, 0, 0) == 0"),  # and leaves it as it is
    (
        "The clock of the host is set",
        0,
        "t = ctypes.create_string_buffer(208); call(159, t); t[0] = 4; assert call(159, t) >= 0",  # ADJ_MAXERROR
    ),
    ("The clock of the host was to be set, and was not", NOBODY, "assert call(164, 0, 0) == -1"),
    ("A program handles page faults of the kernel itself", 0, "assert call(323, 0) > 0"),
    ("A program handles page faults of the kernel itself", NOBODY, "assert call(323, 0) == -1"),
    ("A key ring of the kernel is reached for", NOBODY, "assert call(250, 22, 1000, -2) == -1"),  # another user's
    (
        "A process is restored from a checkpoint",
        0,
        "f = '/proc/self/map_files/'; os.stat(f + os.listdir(f)[0])",
    ),
    ("The root folder is changed by a program that is no builder", 0, "os.chroot('/')"),
    ("The root folder is changed by a program that is no builder", 0, "assert call(155, b'/no', b'/no') == -2"),
    ("The kernel's accounting or audit is reached for", 0, "assert call(163, b'/nothing') == -2"),
    (
        "The kernel's accounting or audit is reached for",
        0,
        "s = socket.socket(16, 3, 9); s.bind((0, 0)); s.send(struct.pack('=IHHII', 16, 1000, 5, 1, 0))",  # AUDIT_GET
    ),
    ("A sandbox reaches for the machine itself", 0, "assert call(168, b'/nothing') == -2"),
    ("A sandbox reaches for the machine itself", NOBODY, "assert call(169, 1, 1, 1, 0) == -1"),
    ("The kernel's log or addresses are asked for with a privilege", 0, "assert call(103, 9, 0, 0) >= 0"),
    ("An io_uring with a kernel thread of its own", 0,
     "p = ctypes.create_string_buffer(120); p[8] = 2; assert call(425, 8, p) > 0"),
    ("A file is opened by its handle", 0,
     "h = ctypes.create_string_buffer(struct.pack('=I', 128), 200); m = ctypes.c_int()\n"
     "assert call(303, -100, b'/etc/hostname', h, ctypes.byref(m), 0) == 0\n"
     "assert call(304, os.open('/etc', 0), h, 0) > 0"),
    ("A sandbox tries to mount", NOBODY, "assert call(430, b'tmpfs', 0) == -1"),
    ("The right over other processes is asked for", NOBODY, "assert call(101, 16, os.getppid(), 0, 0) == -1"),
]  # fmt: skip


@pytest.mark.parametrize(("title", "uid", "code"), CALLED, ids=[f"{title[:40]}-{uid}" for title, uid, _ in CALLED])
def test_what_is_called(sensor: Running, sandbox: Sandbox, title: str, uid: int, code: str) -> None:
    did(sandbox, code, uid=uid)
    sensor.until(lambda: detected(sensor, sandbox, title), title)


def test_a_network_that_is_administered(sensor: Running, sandbox: Sandbox) -> None:
    """One of its own, made with the rights over the host."""
    assert sandbox.run("unshare", "-n", "ip", "link", "set", "lo", "up").returncode == 0
    title = "A network is administered with the rights over the host"
    sensor.until(lambda: detected(sensor, sandbox, title), title)


@pytest.fixture
def outside() -> Iterator[subprocess.Popen[bytes]]:
    """A program outside every sandbox, by the name of a supervisor."""
    folder = Path(tempfile.mkdtemp(prefix=f"pinfold-test-{secrets.token_hex(4)}-"))
    process = subprocess.Popen([shutil.copy("/usr/bin/sleep", folder / "raylet"), "300"])
    yield process
    process.kill()
    process.wait()
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "code",
    ["os.kill(int(sys.argv[1]), 18)", "call(234, int(sys.argv[1]), int(sys.argv[1]), 18)"],
    ids=["kill", "tgkill"],
)
def test_a_supervisor_that_is_signalled(
    sensor: Running, sandbox: Sandbox, outside: subprocess.Popen[bytes], code: str
) -> None:
    did(sandbox, code, outside.pid)
    for title in (
        "A signal was sent to a container runtime or supervisor",
        "A sandbox signals a process outside it",
    ):
        sensor.until(lambda title=title: detected(sensor, sandbox, title), title)  # type: ignore[misc]


@pytest.fixture
def taker() -> Iterator[Path]:
    """setpriv in a scratch folder, where everybody may start it."""
    folder = Path(tempfile.mkdtemp(prefix=f"pinfold-test-{secrets.token_hex(4)}-", dir="/tmp"))
    folder.chmod(0o755)
    yield Path(shutil.copy("/usr/bin/setpriv", folder / "a"))
    shutil.rmtree(folder)


SETUID = struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0)  # version 2, effective; CAP_SETUID is permitted


@pytest.mark.parametrize("option", ["--reuid=0", "--regid=0"])
def test_an_identity_that_is_taken(sensor: Running, sandbox: Sandbox, taker: Path, option: str) -> None:
    """By a capability of its file, and by the bit that makes whoever starts it root."""
    if option == "--reuid=0":
        os.setxattr(taker, "security.capability", SETUID)
    else:
        taker.chmod(0o4755)
    taken = sandbox.run(str(taker), option, "--keep-groups", "/usr/bin/id", uid=NOBODY)
    assert taken.returncode == 0, taken.stderr
    title = "A scratch program takes root's identity"
    sensor.until(lambda: detected(sensor, sandbox, title), title)


def test_a_scratch_program_of_root_that_drops_its_rights_is_silent(
    sensor: Running, sandbox: Sandbox, taker: Path
) -> None:
    assert sandbox.run(str(taker), "--reuid=65534", "--clear-groups", "/usr/bin/id").returncode == 0
    sensor.settled(sandbox)
    assert not detected(sensor, sandbox, "A scratch program takes root's identity")
