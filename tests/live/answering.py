"""A configuration in which each class answers a detection another way, the rules that detect, and what became of it."""

from __future__ import annotations

from pathlib import Path

import sensor as package
from tests.live.operating import Row
from tests.live.running import Running

# Pattern: the class. One pattern, since eight are possible; the rest is assigned by path.
SETTINGS = """
instance: {instance}
paths: {{state: {home}/state, runtime: {home}/run, log: {home}/log, cache: {cache}}}
metrics: {{listen: "127.0.0.1:{port}"}}
rules: {{paths: ['{home}/rules']}}
assign:
  - {{path: "*/level-*", class: level}}
  - {{path: "*/ruled-*", class: ruled}}
  - {{path: "*/tagged-*", class: tagged}}
  - {{path: "*/scored-*", class: scored}}
  - {{path: "*/killed-*", class: killed}}
  - {{path: "*/few-*", class: few}}
  - {{path: "*/slow-*", class: slow}}
  - {{path: "*/told-*", class: told}}
  - {{path: "*/excepted-*", class: excepted}}
classes:
  level: {{mode: enforce, responses: {{high: quarantine}}}}
  ruled: {{mode: enforce, responses: {{high: quarantine, rules: [{{rule: A numbered exec, action: freeze}}]}}}}
  tagged: {{mode: enforce, responses: {{rules: [{{tag: "attack.t1496*", action: kill-sandbox}}]}}}}
  scored: {{mode: enforce, responses: {{rules: [{{score_at_least: 80, action: quarantine}}]}}}}
  killed: {{mode: enforce, responses: {{high: kill}}}}
  few: {{mode: enforce, responses: {{high: freeze, budget: {{quarantines_per_minute: 1}}}}}}
  slow: {{mode: enforce, responses: {{high: freeze, grace_seconds: 6}}}}
  told: {{mode: monitor, responses: {{high: quarantine}}}}
  excepted:
    mode: enforce
    responses:
      high: freeze
      exceptions:
      - {{executable: PYTHON, destination: "203.0.113.10:4711", reason: a mirror}}
"""
TAGGED = """
title: A tagged exec
id: 7c1c9d0e-2f6b-4a55-9d5e-0c8f5f1d2a3c
status: test
level: low
tags: [attack.t1496.001]
logsource: {product: linux, category: process_creation}
detection:
  tagged: {CommandLine|contains: 'dig-gold'}
  condition: tagged
"""
CONNECTED = """
title: A connection to the mirror
id: 7c1c9d0e-2f6b-4a55-9d5e-0c8f5f1d2a3d
status: test
level: high
logsource: {product: linux, category: network_connection}
detection:
  connected: {DestinationPort: 4711}
  condition: connected
"""
MINING = Path(package.__file__).parents[1] / "rules" / "mining" / "mining_session.yml"


def with_rules(sensor: Running) -> Running:
    """Before it is started."""
    rules = sensor.home / "rules"
    (rules / "tagged.yml").write_text(TAGGED)
    (rules / "connected.yml").write_text(CONNECTED)
    (rules / "mining.yml").write_text(MINING.read_text())
    return sensor


def outcomes(sensor: Running, sandbox_id: int) -> list[tuple[str, str]]:
    return [(line["action"], line["outcome"]) for line in responses(sensor, sandbox_id)]


def responses(sensor: Running, sandbox_id: int) -> list[Row]:
    return [line for line in sensor.lines() if line["kind"] == "response" and line.get("SandboxId") == sandbox_id]
