"""A notebook's kernel and client, over five ZeroMQ sockets on loopback: `notebook.py URL` prints what cells say."""

from __future__ import annotations

import sys
from typing import Any

from jupyter_client.manager import start_new_kernel


def main() -> None:
    said: list[str] = []

    def heard(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        fetch = (
            f"import urllib.request as u; print(len(u.build_opener(u.ProxyHandler({{}})).open({sys.argv[1]!r}).read()))"
        )
        for cell in ("print(6 * 7)", fetch):
            client.execute_interactive(cell, timeout=10, output_hook=heard)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    print("".join(said).split())


if __name__ == "__main__":
    main()
