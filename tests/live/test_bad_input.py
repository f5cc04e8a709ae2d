"""What a host that lacks something gets, and an operator who wrote something wrong: one clear line that says what
to do, the right exit status, and no traceback. Reloads are in test_reload.py."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.rulefiles import break_rule, write_rule
from tests.live.running import CONFIG, Running

ALL_CGROUP2 = "umount -l $(awk '$3 == \"cgroup2\" {print $2}' /proc/self/mounts)"
NOT_ROOT = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
# So that it can read its files wherever the checkout is, and still is not root.
READER = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


def elsewhere(*changes: str) -> list[str]:
    """In a mount namespace of its own, changed first: nobody else sees it."""
    script = " && ".join((*changes, 'exec "$@"'))
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


def daemon(sensor: Running, *prefix: str, **environment: str) -> tuple[int, list[str]]:
    """Exit status, and what was said; of a start that is to fail."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "sensor.daemon", "--config", str(sensor.file)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()


def one_line(told: tuple[int, list[str]], *parts: str, status: int = 1) -> None:
    code, lines = told
    assert len(lines) == 1, lines
    assert lines[0].startswith("pinfold: ")
    for part in parts:
        assert part in lines[0], lines[0]
    assert code == status


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Running]:
    """Configured, but not started; with nothing kept of an earlier start."""
    made = Running(cache=str(tmp_path / "cache"))
    yield made
    made.remove()


# The host.


def test_a_kernel_without_btf(still: Running) -> None:
    empty = still.home / "empty"
    empty.mkdir()
    told = daemon(still, *elsewhere(f"mount --bind {empty} /sys/kernel/btf"))
    one_line(told, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF=y")


def test_btf_that_is_none(still: Running) -> None:
    wrong = still.home / "btf"
    wrong.mkdir()
    (wrong / "vmlinux").write_bytes(secrets.token_bytes(4096))
    told = daemon(still, *elsewhere(f"mount --bind {wrong} /sys/kernel/btf"))
    one_line(told, "/sys/kernel/btf/vmlinux", "not readable as BTF")


def test_a_host_without_cgroup2(still: Running) -> None:
    one_line(daemon(still, *elsewhere(ALL_CGROUP2)), "no cgroup2", "mount -t cgroup2")


def test_cgroup2_that_cannot_be_written(still: Running) -> None:
    told = daemon(still, *elsewhere(f"mount -o remount,bind,ro {still.mount}"))
    one_line(told, str(still.parent), "Read-only", "cgroup2 must be writable")


def test_no_bpf_filesystem(still: Running) -> None:
    told = daemon(still, *elsewhere("umount -l /sys/fs/bpf"))
    one_line(told, "/sys/fs/bpf is no BPF filesystem", "mount -t bpf bpf /sys/fs/bpf")


def test_not_root(still: Running) -> None:
    one_line(daemon(still, *NOT_ROOT, *READER), "needs root", "sudo")


def test_root_without_the_right_to_use_bpf(still: Running) -> None:
    """As in a container: uid 0 alone is not enough."""
    told = daemon(still, "setpriv", "--bounding-set=-sys_admin,-bpf")
    one_line(told, "Operation not permitted")


def test_a_port_that_is_taken(still: Running) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", still.port))
        taken.listen()
        one_line(daemon(still), f"127.0.0.1:{still.port}", "taken by another process")


def test_a_log_that_is_a_folder(still: Running) -> None:
    still.log.mkdir(parents=True)
    one_line(daemon(still), str(still.log), "Is a directory", "paths.log")


# bcc.


def hiding(sensor: Running, package: str) -> str:
    """PYTHONPATH on which `import bcc` finds this text."""
    folder = sensor.home / "python"
    (folder / "bcc").mkdir(parents=True)
    (folder / "bcc" / "__init__.py").write_text(package)
    return str(folder)


def test_a_missing_bcc(still: Running) -> None:
    """An interpreter that has everything else."""
    folder = still.home / "python"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'bcc':\n"
        "            raise ModuleNotFoundError(\"No module named 'bcc'\", name='bcc')\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    told = daemon(still, PYTHONPATH=str(folder))
    one_line(told, sys.executable, "no module bcc", "apt-get install python3-bpfcc", "/usr/bin/python3")


@pytest.mark.parametrize(
    "package",
    [
        "import ctypes; ctypes.CDLL('libbcc-of-another.so.0')",
        "raise ImportError('libbcc.so.0: cannot open shared object file: No such file or directory')",
        "print 'of Python 2'",
    ],
)
def test_another_pythons_bcc(still: Running, package: str) -> None:
    told = daemon(still, PYTHONPATH=hiding(still, package))
    one_line(told, "bcc", "apt-get install python3-bpfcc")


def test_pypis_unrelated_bcc(still: Running) -> None:
    path = hiding(still, "__version__ = '0.1'\n")
    told = daemon(still, PYTHONPATH=path)
    one_line(told, f"{path}/bcc/__init__.py", "PyPI's unrelated", "pip uninstall bcc", "apt-get install python3-bpfcc")


def test_a_failed_start_leaves_nothing_running(still: Running) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "sensor.daemon", "--config", str(still.file)],
        env={**os.environ, "PYTHONPATH": hiding(still, "")},
        stderr=subprocess.DEVNULL,
    )
    assert process.wait(timeout=60) == 1
    api = f"sensor.control.api\0{process.pid}\0".encode()

    def gone() -> bool:
        return not any(api in command_line(path) for path in Path("/proc").glob("[0-9]*/cmdline"))

    still.until(gone, "the api process ends with the core")
    assert not list(Path("/sys/fs/bpf", still.instance).glob("gen-*"))
    assert not list(Path("/sys/fs/bpf", still.instance).glob("tmp-*"))


def command_line(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


# The configuration.


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("ring: {{size_bytes: 12345}}\n", r":\d+: ring.size_bytes: expected a power of two .*, found 12345"),
        ("unheard: 1\n", r":\d+: unheard: expected one of the keys .*, found the unknown key unheard"),
        ("rules: [\n", r":\d+: file: expected YAML, found "),
        ("limits: {{sandboxes: many}}\n", r":\d+: limits.sandboxes: expected an integer, found 'many'"),
    ],
)
def test_a_wrong_configuration(options: str, complaint: str) -> None:
    wrong = Running(options)
    try:
        code, (line,) = daemon(wrong)
        assert re.match(rf"pinfold: {re.escape(str(wrong.file))}{complaint}", line), line
        assert code == 2
    finally:
        wrong.remove()


def test_a_configuration_that_is_not_there(still: Running) -> None:
    still.file.unlink()
    one_line(daemon(still), f"{still.file}:1: file: expected a file that can be read", status=2)


def test_more_patterns_than_can_be_matched() -> None:
    """Three are there already, and that of the instance is added."""
    more = "".join(f'  - {{{{path: "more-{number}/*"}}}}\n' for number in range(5))
    wrong = Running(config=CONFIG.replace("sandboxes:\n", "sandboxes:\n" + more))
    try:
        one_line(daemon(wrong), "9 patterns", "8 are possible")
    finally:
        wrong.remove()


# Rules.


OWN_RULES = "rules: {{paths: ['{home}/mine'], keep_going: %s}}\n"


def test_a_broken_rule_refuses_the_start_and_with_keep_going_itself_alone() -> None:
    strict = Running(OWN_RULES % "false")
    try:
        write_rule(strict, "good", "pinfold-good")
        said = break_rule(write_rule(strict, "broken", "pinfold-broken"))
        one_line(daemon(strict), said, "absent")
    finally:
        strict.remove()
    lenient = Running(OWN_RULES % "true")
    write_rule(lenient, "good", "pinfold-good")
    break_rule(write_rule(lenient, "broken", "pinfold-broken"))
    with lenient, lenient.sandbox() as box:
        box.run("/bin/true", "pinfold-good", "pinfold-broken")
        (found,) = lenient.wait(box, kind="detection")
        assert found["rule"]["title"] == "good"
        metrics = lenient.metrics()
        assert metrics['pinfold_rules{state="loaded"}'] == 1
        assert metrics['pinfold_rules{state="refused"}'] == 1


def test_no_rules_at_all() -> None:
    empty = Running(OWN_RULES % "true")
    try:
        (empty.home / "mine").mkdir()
        one_line(daemon(empty), f"{empty.home}/mine", "no rule files")
    finally:
        empty.remove()
