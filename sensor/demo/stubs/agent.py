#!/usr/bin/python3 -I
"""A stub agent: carries out a plan of tool calls, one after the other, and notes how each ended.

`agent.py PLAN RESULTS`. PLAN is a JSON object of name to argv. RESULTS gets one JSON line a call:
{"name": …, "status": …, "output": …}; a negative status is the signal that ended it, null: it had
to be stopped after CALL_SECONDS.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

CALL_SECONDS = 20.0
OUTPUT_BYTES = 4096


def call(command: list[str]) -> tuple[int | None, str]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        status: int | None
        try:
            output, _ = child.communicate(timeout=CALL_SECONDS)
            status = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            status = None
    return status, output[:OUTPUT_BYTES].decode(errors="replace")


def main() -> int:
    plan = json.loads(Path(sys.argv[1]).read_text())
    with open(sys.argv[2], "a", encoding="utf-8") as results:
        for name, command in plan.items():
            status, output = call(command)
            results.write(json.dumps({"name": name, "status": status, "output": output}) + "\n")
            results.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
