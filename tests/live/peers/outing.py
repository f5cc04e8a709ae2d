"""What the benign set has in common: an internet of a few hosts with names, and the sandbox's programs in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.live.peers.certificate import make_certificate
from tests.live.peers.network import ALLOWED, OTHER, SERVER, Network
from tests.live.peers.programs import Program
from tests.live.peers.resolver import start_resolver
from tests.live.peers.tunnel import SCRIPTS, Stage
from tests.live.running import Sandbox

INDEX, REGISTRY, GIT, LLM = "index.test", "registry.test", "git.allowed.test", "llm.test"
NAMES = {INDEX: OTHER, REGISTRY: OTHER, GIT: ALLOWED, LLM: SERVER}
HTTPS = 443


@dataclass(frozen=True)
class Outing:
    """`certificate` is that of all names, `authority` what clients are to trust."""

    stage: Stage
    certificate: Path
    authority: Path

    @property
    def folder(self) -> Path:
        return self.stage.folder

    def files(self, name: str, folder: Path) -> None:
        """Serve the folder over TLS under that name."""
        address, network = NAMES[name], self.stage.network
        script = ["/usr/bin/python3", "-I", "-S", str(SCRIPTS / "https_files.py")]
        server = self.stage.outside(*script, address, str(HTTPS), str(self.certificate), str(folder))
        network.listens(network.outside, HTTPS, server)

    def start(self, *argv: str, env: Mapping[str, str] | None = None) -> Program:
        """In the sandbox, with a home of its own, and without this host's proxies and configuration of tools."""
        # Unix sockets are made below TMPDIR, and their paths are short.
        authority = ("GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
        environment = {
            **dict.fromkeys(authority, str(self.authority)),
            "HOME": str(self.folder), "TMPDIR": str(self.stage.network.folder), "NO_PROXY": "*", "no_proxy": "*",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
            "PIP_CONFIG_FILE": "/dev/null",
        }  # fmt: skip
        return self.stage.inside(*argv, env={**environment, **(env or {})})

    def run(self, *argv: str, env: Mapping[str, str] | None = None) -> str:
        """`start`, and what it said once it ended well."""
        return self.start(*argv, env=env).finish()


@contextmanager
def outing(network: Network, sandbox: Sandbox, folder: Path) -> Iterator[Outing]:
    with ExitStack() as ending:
        stage = Stage(network, sandbox, folder, renamed=False, port=0, ending=ending)
        ending.callback(start_resolver(network, {name: [address] for name, address in NAMES.items()}).stop)
        certificate = make_certificate(stage.folder / "certificate", *NAMES)
        yield Outing(stage, certificate, Path(f"{certificate}.crt"))
