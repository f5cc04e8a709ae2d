"""A folder with a rule, its examples, a configuration that names them, and a log with an event and its detection."""

from __future__ import annotations

import json
from pathlib import Path

RULE = """\
title: A tunnel to somewhere
id: 5a1cbe10-1111-4111-8111-000000000001
status: experimental
description: A tool asks for a tunnel.
level: high
logsource: {category: process_creation, product: linux}
detection:
  named: {Image|endswith: [/edge, /tunneld]}
  words:
    CommandLine|contains|all: [' tunnel', ' --url']
    CommandLine|re: '--url[= ]\\S+'
  filter_help: {CommandLine|contains: ' --help'}
  condition: named and words and not 1 of filter_*
falsepositives: [none]
tags: [attack.t1572]
"""
EXAMPLES = """\
match:
- {name: plain, event: {Image: /opt/edge, CommandLine: edge tunnel --url x}}
no_match:
- {name: no url, event: {Image: /opt/edge, CommandLine: edge tunnel}}
"""
ID = "18ecb4e76d1de7b9-14d8"
EVENT = {
    "v": 1, "kind": "event", "category": "process_creation", "id": ID, "time": "2026-11-30T06:00:00.000000001Z",
    "Image": "/opt/edge", "ImageInvoked": "/usr/local/bin/edge", "CommandLine": "edge tunnel --url \x1b[31mhttp://x",
    "Argv": ["edge", "tunnel", "--url", "\x1b[31mhttp://x"], "SandboxId": 7, "SandboxName": "agent-1", "ProcessId": 99,
}  # fmt: skip
DETECTION = {
    "v": 1, "kind": "detection", "id": f"{ID}/5a1cbe10-1111-4111-8111-000000000001", "event": ID,
    "time": "2026-11-30T06:00:00.000000002Z", "category": "process_creation", "Image": "/opt/edge",
    "CommandLine": EVENT["CommandLine"], "rule": {"id": "x", "title": "y", "level": "high", "tags": ["attack.t1572"]},
}  # fmt: skip


def make(home: Path) -> Path:
    """The rule's file. `home` has a configuration c.yaml (tests/cli/conftest.py)."""
    (home / "rules").mkdir()
    rule = home / "rules/tunnel.yml"
    rule.write_text(RULE)
    (home / "rules/tunnel.events.yaml").write_text(EXAMPLES)
    with (home / "c.yaml").open("a") as config:
        config.write(f"rules: {{paths: [{home}/rules]}}\n")
    (home / "log").mkdir(exist_ok=True)
    lines = [DETECTION, EVENT, {**EVENT, "id": "18ecb4e76d1de7b9-14e0", "Image": "/bin/true", "CommandLine": "true"}]
    (home / "log/events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return rule
