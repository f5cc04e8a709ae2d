"""The benign set: installing, cloning, compiling, testing."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
import subprocess
import sys
import tarfile
from base64 import b64encode
from pathlib import Path

from tests.live.peers.network import ALLOWED, Network
from tests.live.peers.outing import GIT, INDEX, REGISTRY, Outing, outing
from tests.live.peers.programs import find
from tests.live.peers.ssh import start_sshd
from tests.live.peers.tunnel import SCRIPTS, joined
from tests.live.running import Sandbox

C_SOURCE = "int answer(void) { return 42; }\n"
MODULE = """import ctypes
answer = ctypes.CDLL(__file__.replace("quick.py", "native.so")).answer
"""
PYPROJECT = """[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def tarball(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def pip_install(network: Network, sandbox: Sandbox, folder: Path) -> None:
    """Of a source distribution with a compiled part, from an index over TLS."""
    with outing(network, sandbox, folder) as out:
        pages = out.folder / "index" / "simple" / "quick"
        pages.mkdir(parents=True)
        sdist = tarball(
            {
                "quick-1.0/PKG-INFO": "Metadata-Version: 2.1\nName: quick\nVersion: 1.0\n",
                "quick-1.0/pyproject.toml": PYPROJECT,
                "quick-1.0/backend.py": (SCRIPTS / "backend.py").read_text(),
                "quick-1.0/quick.py": MODULE,
                "quick-1.0/quick.c": C_SOURCE,
            }
        )
        (pages / "quick-1.0.tar.gz").write_bytes(sdist)
        digest = hashlib.sha256(sdist).hexdigest()
        (pages / "index.html").write_text(f'<a href="quick-1.0.tar.gz#sha256={digest}">quick-1.0.tar.gz</a>')
        out.files(INDEX, out.folder / "index")
        installed = out.folder / "site"
        out.run(
            sys.executable, "-m", "pip", "--isolated", "install", "--no-cache-dir", "--disable-pip-version-check",
            "-i", f"https://{INDEX}/simple/", "--cert", str(out.authority), "--target", str(installed), "quick",
        )  # fmt: skip
        code = "import quick; print(quick.answer())"
        said = out.run("/usr/bin/python3", "-c", code, env={"PYTHONPATH": str(installed)})
        assert said == "42\n"


def npm_install(network: Network, sandbox: Sandbox, folder: Path) -> None:
    """Of a package with an install script that compiles, from a registry over TLS."""
    with outing(network, sandbox, folder) as out:
        registry, project = out.folder / "registry", out.folder / "project"
        for each in (registry, project):
            each.mkdir()
        package = {"name": "quick", "version": "1.0.0", "scripts": {"install": "cc -O2 -shared -o quick.so quick.c"}}
        archive = tarball({"package/package.json": json.dumps(package), "package/quick.c": C_SOURCE})
        (registry / "quick-1.0.0.tgz").write_bytes(archive)
        integrity = "sha512-" + b64encode(hashlib.sha512(archive).digest()).decode()
        place = {"tarball": f"https://{REGISTRY}/quick-1.0.0.tgz", "integrity": integrity}
        version = {**package, "hasInstallScript": True, "dist": place}
        about = {"name": "quick", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
        (registry / "quick").write_text(json.dumps(about))
        (project / "package.json").write_text(json.dumps({"name": "project", "version": "1.0.0"}))
        out.files(REGISTRY, registry)
        out.run(
            find("npm"), "install", "--prefix", str(project), "--registry", f"https://{REGISTRY}/",
            "--no-audit", "--no-fund", "--no-update-notifier", "quick@1.0.0",
        )  # fmt: skip
        assert (project / "node_modules" / "quick" / "quick.so").is_file(), "the install script has compiled"


def make_repository(out: Outing) -> Path:
    """A bare one, with what dumb HTTP needs."""
    served = out.stage.network.folder / f"served-{secrets.token_hex(4)}"  # by a user who may enter there
    work, bare = out.folder / "work", served / "project.git"
    git = (
        "git", "-c", "user.name=work", "-c", "user.email=work@localhost", "-c", "commit.gpgsign=false",
        "-c", "init.defaultBranch=main",
    )  # fmt: skip
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}

    def run(*arguments: str) -> None:
        subprocess.run([*git, *arguments], check=True, capture_output=True, env=environment)

    run("init", "-q", str(work))
    (work / "quick.c").write_text(C_SOURCE)
    run("-C", str(work), "add", ".")
    run("-C", str(work), "commit", "-q", "-m", "Answer")
    run("clone", "-q", "--bare", str(work), str(bare))
    run("-C", str(bare), "update-server-info")
    return bare


def git_https(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        out.files(GIT, make_repository(out).parent)
        out.run(find("git"), "clone", "-q", f"https://{GIT}/project.git", str(out.folder / "clone"))
        assert (out.folder / "clone" / "quick.c").read_text() == C_SOURCE


def git_ssh(network: Network, sandbox: Sandbox, folder: Path) -> None:
    """From the host that a policy would allow."""
    with outing(network, sandbox, folder) as out:
        bare = make_repository(out)
        sshd = start_sshd(out.stage, 22, address=ALLOWED, login="git")
        # Its owner is not who serves it, which git refuses unless told.
        (sshd.folder / ".gitconfig").write_text("[safe]\n directory = *\n")
        ssh = joined((find("ssh"), *sshd.options(), "-o", f"HostKeyAlias={ALLOWED}"))
        url = f"ssh://git@{GIT}{bare}"
        out.run(find("git"), "clone", "-q", url, str(out.folder / "clone"), env={"GIT_SSH_COMMAND": ssh})
        assert (out.folder / "clone" / "quick.c").read_text() == C_SOURCE


MAKEFILE = """
OBJECTS = $(patsubst %.c,%.o,$(wildcard *.c))
all: $(OBJECTS)
	cc -o all $(OBJECTS)
"""


def make_jobs(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        names = [f"part{number}" for number in range(12)]
        for name in names:
            (out.folder / f"{name}.c").write_text(f"int {name}(void) {{ return 1; }}\n")
        declared = "".join(f"int {name}(void);\n" for name in names)
        total = " + ".join(f"{name}()" for name in names)
        (out.folder / "main.c").write_text(f"{declared}int main(void) {{ return {total} - {len(names)}; }}\n")
        (out.folder / "Makefile").write_text(MAKEFILE)
        out.run(find("make"), "-s", "-j", "4")
        out.run(str(out.folder / "all"))


MULTIPROCESSING = """
import multiprocessing
from multiprocessing.managers import BaseManager

class Shared(BaseManager):
    pass

Shared.register("numbers", callable=list)

def square(number):
    return number * number

def test_a_pool():
    with multiprocessing.Pool(3) as pool:
        assert pool.map(square, range(50)) == [n * n for n in range(50)]

def test_a_manager_on_a_unix_socket():
    with multiprocessing.Manager() as manager:
        shared = manager.dict()
        children = [multiprocessing.Process(target=shared.__setitem__, args=(n, n)) for n in range(3)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert dict(shared) == {n: n for n in range(3)}

def test_a_manager_on_loopback():
    with Shared(address=("127.0.0.1", 0), authkey=b"key") as manager:
        assert manager.numbers().count(1) == 0
"""


def pytest_multiprocessing(network: Network, sandbox: Sandbox, folder: Path) -> None:
    with outing(network, sandbox, folder) as out:
        (out.folder / "test_quick.py").write_text(MULTIPROCESSING)
        said = out.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_quick.py")
        assert "3 passed" in said
