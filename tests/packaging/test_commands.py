"""The two commands' shell: clean, quick when there is nothing to do, and plain about wrong use."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.packaging.tools import PACKAGING, TOP, tool

SCRIPTS = [PACKAGING / "start", PACKAGING / "test", PACKAGING / "lib.sh", TOP / ".ci" / "run"]
POLICY = Path("/usr/sbin/policy-rc.d")


def shell(code: str) -> subprocess.CompletedProcess[str]:
    """`code` after packaging/lib.sh, with the options that both commands set."""
    command = ["bash", "-c", f'set -euo pipefail; . "{PACKAGING}/lib.sh"; {code}']
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_shellcheck() -> None:
    done = subprocess.run(
        [tool("shellcheck"), "-x", *map(str, SCRIPTS)], cwd=TOP, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [PACKAGING / "start", PACKAGING / "test", TOP / ".ci" / "run"], ids=lambda p: p.name)
def test_commands_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("name", ["start", "test"])
def test_without_root_one_line_and_status_1(name: str) -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-s"],
        input=f"set --; . /dev/stdin <<'EOF'\n{_as_text(name)}\nEOF\n",
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"pinfold: must run as root: sudo packaging/{name}"]


def _as_text(name: str) -> str:
    """The command in one text: another user cannot read the checkout where it lies under /root."""
    lib = (PACKAGING / "lib.sh").read_text().replace("${0##*/}", name)
    return lib + "\n".join(line for line in (PACKAGING / name).read_text().splitlines() if not line.startswith(". "))


@pytest.mark.parametrize("arguments", [["--frob"], ["--config"], ["--config", "/nonexistent/pinfold.yaml"]])
def test_wrong_arguments_exit_2(arguments: list[str]) -> None:
    done = subprocess.run([PACKAGING / "start", *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("pinfold: ")


def test_help() -> None:
    done = subprocess.run([PACKAGING / "start", "--help"], check=False, capture_output=True, text=True)
    assert done.returncode == 0
    assert "sudo packaging/start --demo" in done.stdout


def test_missing_packages_are_told_apart() -> None:
    done = shell("missing_packages bash pinfold-no-such-package dpkg")
    assert (done.returncode, done.stdout) == (0, "pinfold-no-such-package\n")


def test_nothing_is_installed_twice() -> None:
    done = shell("apt-get() { exit 99; }; install_packages bash dpkg")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


OWN_POLICY = "#!/bin/sh\nexit 104\n"
GUARDED = f"without_services sh -c '{POLICY} ssh start; echo $?; exit 7' || echo status $?"


def beside_the_host(tmp_path: Path, code: str) -> list[str]:
    """`code` after packaging/lib.sh, with /usr/sbin an overlay in a mount namespace of its own: its words."""
    before = f"""
      mkdir -p {tmp_path}/upper {tmp_path}/work
      mount -t overlay none -o lowerdir=/usr/sbin,upperdir={tmp_path}/upper,workdir={tmp_path}/work /usr/sbin
      rm -f {POLICY}; set -euo pipefail; . "{PACKAGING}/lib.sh"; """
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", before + code], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_services_do_not_start_while_packages_are_installed(tmp_path: Path) -> None:
    assert beside_the_host(tmp_path, f"{GUARDED}; test ! -e {POLICY}; echo gone") == ["101", "status", "7", "gone"]


def test_the_hosts_own_policy_stays(tmp_path: Path) -> None:
    made = f"printf '{OWN_POLICY}' >{POLICY}; chmod 700 {POLICY}"
    said = beside_the_host(tmp_path, f"{made}; {GUARDED}; stat -c %a {POLICY}; {POLICY} || echo $?; ls {POLICY}*")
    assert said == ["101", "status", "7", "700", "104", str(POLICY)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_hosts_own_policy_comes_back_after_a_kill(tmp_path: Path, number: signal.Signals) -> None:
    """Of the installing shell, amid the installation; after SIGKILL by the next installation."""
    made = f"printf '{OWN_POLICY}' >{POLICY}; chmod 700 {POLICY}"
    killed = f"bash -c '. {PACKAGING}/lib.sh; without_services sh -c \"kill -{number.value} \\$PPID\"' || true"
    healed = "restore_policy" if number is signal.SIGKILL else "true"
    said = beside_the_host(tmp_path, f"{made}; {killed}; {healed}; {POLICY} || echo $?; ls {POLICY}*")
    assert said == ["104", str(POLICY)]


def test_installers_wait_for_each_other() -> None:
    done = shell("(lock_installation; sleep 0.3; echo first) & sleep 0.1; lock_installation; echo second; wait")
    assert done.stdout.split() == ["first", "second"]
    assert "waiting for another installation" in done.stderr


def test_no_registry_is_named() -> None:
    """pip and apt use the system's own configuration."""
    for script in SCRIPTS:
        assert not [line for line in script.read_text().splitlines() if "://" in line], script
