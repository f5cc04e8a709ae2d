"""The benign set by name: each does its work in the sandbox, or raises AssertionError."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

from tests.live.peers import benign_browser, benign_builds, benign_servers, benign_shell
from tests.live.peers.network import Network
from tests.live.running import Sandbox


class Benign(Protocol):
    def __call__(self, network: Network, sandbox: Sandbox, folder: Path) -> None: ...


BENIGN: dict[str, Benign] = {
    "pip-install": benign_builds.pip_install,
    "npm-install": benign_builds.npm_install,
    "git-https": benign_builds.git_https,
    "git-ssh": benign_builds.git_ssh,
    "make": benign_builds.make_jobs,
    "pytest-multiprocessing": benign_builds.pytest_multiprocessing,
    "dev-server": benign_servers.dev_server,
    "browser": benign_browser.browser,
    "notebook": benign_servers.notebook,
    "agent-shell": benign_shell.agent_shell,
    "agent-tool": partial(benign_servers.agent, itself=False),
    "agent-itself": partial(benign_servers.agent, itself=True),
    "rock": benign_servers.rock,
    "swe-rex": benign_servers.swe_rex,
    "rendezvous": benign_servers.rendezvous,
}
