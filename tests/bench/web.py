"""A local HTTP server for a sandbox's requests: Debian's nginx, in the measured cgroup, on the measured core."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.harness import BenchError, one_line
from tests.bench.workspace import Workspace

START_WITHIN_S = 10.0
PAGE = "<!doctype html><title>A small page</title><p>A couple of hundred bytes, with its head.</p>\n"
# As root, since its worker must read what is in a folder of ours. Everything that Debian's build writes is named.
_CONFIG = """user root;
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port} backlog=1024; root {folder}; }}
}}
"""


@contextmanager
def server(space: Workspace, cgroup: Path) -> Iterator[int]:
    """Its port on loopback. It has /index.html. Raises BenchError."""
    folder = space.folder / "web"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "index.html").write_text(PAGE)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config, errors = folder / "nginx.conf", folder / "stderr"
    config.write_text(_CONFIG.format(folder=folder, port=port))
    enter = [str(space.workloads / "enter"), str(cgroup), "--"]
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [*enter, "taskset", "-c", str(space.core), "nginx", "-c", str(config)],
            stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_WITHIN_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"nginx did not start: {one_line(errors.read_text(errors='replace')[-300:])}")
            time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
