#!/usr/bin/python3 -I
"""An ordinary day in a sandbox: compile, run, commit, serve a folder on loopback and fetch from it.

`work.py FOLDER PORT`, FOLDER empty and ours. Status 0 if every part did what it should.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

SOURCE = """#include <stdio.h>
int main(void) { long sum = 0; for (long i = 1; i <= 1000; i++) sum += i; printf("%ld\\n", sum); return 0; }
"""
GIT = ("git", "-c", "user.name=work", "-c", "user.email=work@localhost", "-c", "commit.gpgsign=false")
FETCH_TRIES = 100


def run(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def fetch(folder: Path, url: str) -> str:
    """curl until the server listens, which takes it a moment."""
    for _ in range(FETCH_TRIES):
        done = subprocess.run(
            ["curl", "--silent", "--fail", "--noproxy", "*", "--max-time", "5", url],
            cwd=folder,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode == 0:
            return done.stdout
        time.sleep(0.1)
    raise SystemExit(f"nothing came from {url}")


def main() -> int:
    folder, port = Path(sys.argv[1]), sys.argv[2]
    (folder / "sum.c").write_text(SOURCE)
    run(folder, "gcc", "-O1", "-Wall", "-o", "sum", "sum.c")
    if run(folder, "./sum") != "500500\n":
        raise SystemExit("the compiled program is wrong")
    if shutil.which("git"):
        run(folder, *GIT, "init", "-q", ".")
        run(folder, *GIT, "add", "sum.c")
        run(folder, *GIT, "commit", "-q", "-m", "Sum")
    with subprocess.Popen(
        ["python3", "-m", "http.server", "--bind", "127.0.0.1", port],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            fetched = fetch(folder, f"http://127.0.0.1:{port}/sum.c")
        finally:
            server.terminate()
    if fetched != SOURCE:
        raise SystemExit("the server gave something else")
    print("compiled, committed, served and fetched")
    return 0


if __name__ == "__main__":
    sys.exit(main())
