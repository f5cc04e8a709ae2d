"""A certificate of the outside's, which is its own authority: clients that verify are given it."""

from __future__ import annotations

from pathlib import Path

from tests.live.peers.network import ALLOWED, OTHER, SERVER
from tests.live.peers.programs import find
from tests.live.peers.tunnel import output_of


def make_certificate(path: Path, *names: str) -> Path:
    """Certificate and key in one file, for the outside's addresses and these names."""
    places = [*(f"IP:{address}" for address in (SERVER, OTHER, ALLOWED)), *(f"DNS:{name}" for name in names)]
    output_of(
        find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc",
        "-keyout", str(path), "-out", f"{path}.crt", "-days", "2", "-subj", "/CN=outside",
        "-addext", f"subjectAltName={','.join(places)}",
    )  # fmt: skip
    certificate = Path(f"{path}.crt")
    path.write_text(path.read_text() + certificate.read_text())
    path.chmod(0o644)  # whoever serves outside need not be root
    return path
