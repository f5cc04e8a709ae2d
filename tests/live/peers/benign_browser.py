"""The benign set: a browser, driven by playwright as agents do it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.live.peers.benign_servers import url_of
from tests.live.peers.network import Network
from tests.live.peers.outing import INDEX, outing
from tests.live.peers.programs import find
from tests.live.peers.tunnel import PAGE_BYTES, SCRIPTS
from tests.live.running import Sandbox

TEXT = "a page of the web"


def browser(network: Network, sandbox: Sandbox, folder: Path) -> None:
    """Chromium, headless: a page of a dev server on loopback, then one over TLS from outside."""
    with outing(network, sandbox, folder) as out:
        out.stage.serve()
        web = out.folder / "web"
        web.mkdir()
        (web / "index.html").write_text(f"<p>{TEXT}</p>")
        out.files(INDEX, web)
        script = (sys.executable, str(SCRIPTS / "browser.py"), find("chromium"))
        said = out.run(*script, url_of(out), f"https://{INDEX}/index.html")
        assert said.split() == [str(PAGE_BYTES), str(len(TEXT))]
