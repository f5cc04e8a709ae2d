"""What sandboxes do to files that matter, in places of their own and of the host, however it is done."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.filing import Shell, contained, looking
from tests.live.running import Running, Sandbox


@pytest.fixture(scope="module")
def sensor(rule_cache: str) -> Iterator[Running]:
    with looking(rule_cache) as running:
        yield running


def furnish(home: Path) -> Path:
    for name in (".ssh", ".aws", ".claude"):
        (home / name).mkdir()
    (home / ".aws" / "credentials").write_text("[default]\n")
    (home / ".ssh" / "authorized_keys").write_text("")
    time.sleep(0.02)  # what was done within a tick of a sandbox's birth may be its own
    return home


@pytest.fixture
def shell(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> Iterator[Shell]:
    """Of a sandbox that shares the host's root."""
    with Shell(sensor, sandbox, furnish(tmp_path)) as shell:
        yield shell.watched()


def test_what_is_done_to_a_file_on_the_host(shell: Shell) -> None:
    home = shell.home
    shell.do("echo key >> .ssh/authorized_keys")
    made = shell.wait("file_event", f"{home}/.ssh/authorized_keys")
    assert made["Action"] == "written" and made["Place"] == "host" and made["Mechanism"] == "fanotify"
    assert made["Image"] == "/usr/bin/bash" and made["ProcessId"] == shell.process.pid and made["Count"] == 1
    shell.do("echo '{}' > .claude/settings.json")
    assert shell.wait("file_event", f"{home}/.claude/settings.json")["Action"] == "created"
    shell.do("chmod 777 .ssh/authorized_keys")
    assert shell.wait("file_change", f"{home}/.ssh/authorized_keys")["Image"] == "/usr/bin/chmod"
    shell.do("chown 1:1 .claude/settings.json")
    assert shell.wait("file_change", f"{home}/.claude/settings.json")["Image"] == "/usr/bin/chown"
    shell.do("ln .ssh/authorized_keys .bashrc")
    assert shell.wait("file_event", f"{home}/.bashrc")["Image"] == "/usr/bin/ln"
    shell.do("mv .bashrc .zshrc")
    moved = shell.wait("file_rename", f"{home}/.zshrc")
    assert moved["SourceFilename"] == f"{home}/.bashrc" and moved["Action"] == "renamed"
    shell.do("echo x > innocent; mv innocent .bash_profile")
    assert shell.wait("file_event", f"{home}/.bash_profile")["Image"] == "/usr/bin/mv"
    shell.do("rm .zshrc")
    assert shell.wait("file_delete", f"{home}/.zshrc")["Image"] == "/usr/bin/rm"
    shell.do("mkdir -p .claude/hooks")
    assert not shell.told("file_event", f"{home}/innocent")


def test_what_is_read(shell: Shell) -> None:
    shell.do("cat .aws/credentials")
    read = shell.wait("file_access", f"{shell.home}/.aws/credentials")
    assert read["Action"] == "read" and read["Image"] == "/usr/bin/cat"
    shell.do("read -r line < .aws/credentials")  # a builtin
    assert shell.wait("file_access", f"{shell.home}/.aws/credentials", Image="/usr/bin/bash")


def program(name: str) -> Callable[[str], bool]:
    """By its last component: chroot alone hides nothing from the host."""
    return lambda image: image.endswith(f"/{name}")


@pytest.fixture
def container(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> Iterator[Shell]:
    """With a root of its own: an overlay over the host's, in a mount namespace."""
    with contained(sensor, sandbox, tmp_path) as shell:
        yield shell.watched()


def test_a_root_of_its_own(container: Shell) -> None:
    shell = container
    shell.do("mkdir .ssh; echo key >> .ssh/authorized_keys")
    made = shell.wait("file_event", "/home/agent/.ssh/authorized_keys")
    assert made["Place"] == "sandbox"
    shell.do("echo /tmp/x.so > /etc/ld.so.preload")
    assert shell.wait("file_event", "/etc/ld.so.preload")["Place"] == "sandbox"
    shell.do("echo '* * * * * root true' >> /etc/crontab; rm /etc/ld.so.preload")
    shell.wait("file_event", "/etc/crontab")
    shell.wait("file_delete", "/etc/ld.so.preload")
    shell.do("echo x > /etc/cron.d/x; chmod 600 /etc/shadow; cat /etc/shadow")
    shell.wait("file_event", "/etc/cron.d/x")
    shell.wait("file_change", "/etc/shadow")
    shell.wait("file_access", "/etc/shadow", Image=program("cat"))
    assert not Path("/etc/ld.so.preload").exists()


def test_what_is_made_in_folders_that_are_made_just_before(container: Shell) -> None:
    """By a program that has ended when its folder is to be looked into, and by nothing that is executed."""
    places = (".ssh/authorized_keys", ".codex/config.toml", ".gemini/settings.json", ".iflow/settings.json",
              ".qwen/settings.json", ".cursor/mcp.json", ".continue/config.json", ".vscode/tasks.json")  # fmt: skip
    for place in places:
        container.do(f"mkdir {place.partition('/')[0]}; echo x > {place}")
        container.wait("file_event", f"{container.home}/{place}")


@pytest.mark.parametrize(
    "deed",
    [
        "mv prepared .ssh",
        "ln -s prepared .ssh",
        "mkdir .ssh; sleep 1.5; mv .ssh old; mv prepared .ssh",
        "mkdir .ssh; sleep 1.5; rmdir .ssh; mv prepared .ssh",
        "mkdir .ssh; sleep 1.5; rmdir .ssh; mkdir .ssh; mv prepared/authorized_keys .ssh/",
        "mkdir .ssh; sleep 1.5; mv .ssh old; mkdir .ssh; echo key > .ssh/authorized_keys",
    ],
)
def test_what_was_prepared_elsewhere_and_is_put_in_place(container: Shell, deed: str) -> None:
    container.do("mkdir prepared; echo key > prepared/authorized_keys; sleep 0.5")
    container.do(deed)
    container.wait("file_event", f"{container.home}/.ssh/authorized_keys")
    container.sensor.wait(
        container.box, kind="detection", rule=lambda rule: rule["title"] == "A key that opens a login is added"
    )


def test_kernel_helpers(container: Shell) -> None:
    """What it holds is written back, unchanged, by a builtin."""
    container.do('read -r -d "" now < /proc/sys/kernel/core_pattern; printf %s "$now" > /proc/sys/kernel/core_pattern')
    made = container.wait("file_event", "/proc/sys/kernel/core_pattern", Image=program("bash"))
    assert made["Action"] == "written" and made["Mechanism"] == "fanotify"


def test_a_release_agent_written_by_the_first_program_of_a_sandbox(
    sensor: Running, sandbox: Sandbox, tmp_path: Path
) -> None:
    """In a directory that nobody looked at before, by a builtin of a shell that ends at once."""
    sandbox.run("/bin/sh", "-c", "echo 'hello' > release_agent", cwd=tmp_path)
    made = sensor.wait(sandbox, category="file_event", TargetFilename=f"{tmp_path}/release_agent")[0]
    assert made["Image"] == "/usr/bin/dash" and made["Action"] in {"created", "written"}


def test_a_release_agent_in_a_hierarchy(container: Shell) -> None:
    agents = sorted(Path("/sys/fs/cgroup").glob("*/release_agent"))
    assert agents, "this host has no hierarchy of cgroup v1"
    hierarchy = agents[0].parent
    options = next(
        line.split()[3] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == str(hierarchy)
    )
    kinds = [
        option for option in options.split(",") if option not in {"rw", "ro", "nosuid", "nodev", "noexec", "relatime"}
    ]
    container.do(f"mkdir -p /tmp/h && mount -t cgroup -o {','.join(kinds)} h /tmp/h && cd /tmp/h && /bin/true")
    container.do(": > /tmp/h/release_agent; cd")
    container.wait("file_event", lambda path: path.endswith("/release_agent"), Image=program("bash"))


def test_rules_detect_it(sensor: Running, container: Shell) -> None:
    """However it is done: none of these has an argument that tells."""
    container.do("x=release; echo 1 > ${x}_agent; d=.claude; mkdir -p $d; echo '{}' > $d/settings.json")
    container.do("n=/etc/ld.so; echo > $n.preload; n=/etc/sha; read -r line < ${n}dow; n=.s; mkdir -p ${n}sh")
    container.do("echo k > /tmp/k; mv -f /tmp/k ${n}sh/authorized_keys; c=/etc/cron.d; echo > $c/x")
    container.do("rm /etc/ld.so.preload")
    wanted = {
        "A file that makes the kernel run something is written",
        "The settings of a coding agent are written",
        "A library is put before every program",
        "The hashes of passwords are read",
        "A key that opens a login is added",
        "A cron table is written",
    }

    def titles() -> set[str]:
        return {line["rule"]["title"] for line in sensor.of(container.box, kind="detection")}

    sensor.until(lambda: wanted <= titles(), f"all of {wanted}")


def test_folders_of_the_configuration(sensor: Running, shell: Shell) -> None:
    reward = sensor.home / "trainer" / "reward.py"
    shell.do(f"echo 'return 1' > {reward}; mkdir {reward.parent}/epoch-1; /bin/true")
    shell.wait("file_event", str(reward))
    shell.wait("file_event", f"{reward.parent}/epoch-1", TargetIsDirectory=True)


def test_a_name_that_is_no_text(sensor: Running, shell: Shell) -> None:
    shell.do(f"printf x > {sensor.home}/trainer/$'a\\xff\\x1b[31m'")
    made = shell.wait("file_event", f"{sensor.home}/trainer/a\ufffd\x1b[31m")
    assert made["raw"] if "raw" in made else made["TargetFilename_b64"]


def test_a_flood_is_bounded_and_counted(sensor: Running, shell: Shell) -> None:
    shell.do(f"for i in {{1..3000}}; do : > {sensor.home}/trainer/$i; done")
    sensor.until(lambda: shell.told("file_event", f"{sensor.home}/trainer/1"), "the first of many")
    lost = 'pinfold_events_lost_total{reason="budget",stage="files"}'
    sensor.until(lambda: sensor.metrics().get(lost, 0) > 100, "the loss, counted")
    sensor.until(lambda: sensor.metrics()["pinfold_sandboxes_unknown"] >= 1, "a sandbox that is unknown")
    many = sensor.of(shell.box, category="file_event")
    assert 200 <= len(many) < 2500


STALL = """
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fuse
assert not libc.mount(b"stall", b"/root", b"fuse", 0, options), os.strerror(ctypes.get_errno())
print("mounted", flush=True)
time.sleep(600)
"""


def test_a_root_that_stalls_whoever_looks(sensor: Running, sandbox: Sandbox, tmp_path: Path) -> None:
    """A FUSE file system in place of /root, whose server answers nothing."""
    command = ("/usr/bin/unshare", "-m", "--propagation", "private", "/usr/bin/python3", "-I", "-S", "-c", STALL)
    process = sandbox.start(*command, stdout=subprocess.PIPE)
    with sensor.sandbox() as other:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"mounted\n"
            stalled = 'pinfold_file_looks_total{outcome="stalled"}'
            sensor.until(lambda: sensor.metrics()[stalled], "a look that stalled")
            sensor.until(lambda: sensor.metrics()["pinfold_sandboxes_unknown"], "a sandbox that is unknown")
            with Shell(sensor, other, furnish(tmp_path)) as shell:
                shell.watched().do("echo >> .ssh/authorized_keys")
                shell.wait("file_event", f"{tmp_path}/.ssh/authorized_keys")
        finally:
            process.kill()
            process.communicate()


def test_processes_outside_every_sandbox_give_nothing(shell: Shell) -> None:
    before = len(shell.sensor.lines())
    path = Path(shell.home) / ".ssh" / "authorized_keys"
    path.write_text("of the host\n")
    (Path(shell.home) / ".aws" / "credentials").read_text()
    os.chmod(path, 0o600)
    shell.do("echo >> .ssh/authorized_keys")
    shell.wait("file_event", str(path))
    files = [line for line in shell.sensor.lines()[before:] if line.get("TargetFilename", "").startswith(shell.home)]
    assert {line["ProcessId"] for line in files} == {shell.process.pid}
    shell.sensor.until(lambda: shell.sensor.metrics()["pinfold_file_events_outside_total"], "the host's own, counted")
