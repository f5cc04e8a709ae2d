"""What a running sensor really writes, against the schema in the package."""

from __future__ import annotations

import os
import signal

import jsonschema  # type: ignore[import-untyped]

from sensor.export import schema
from tests.live.running import Running

MISCHIEF = """
import os, socket
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.7', 4545))
try:
    socket.socket(socket.AF_UNIX).connect(b'/nobody-\\xff')
except OSError:
    pass
try:
    os.open('/dev/fuse', os.O_RDWR)
except OSError:
    pass
os.execv('/bin/true', [b'\\xff\\x1b[31m', b'-7-', b'\\n'])
"""


def test_every_line_of_a_real_log_is_as_the_schema_says(rule_cache: str) -> None:
    with Running("rules: {{paths: ['{home}/rules']}}\n", cache=rule_cache) as sensor:
        for name in ("plain", "kill-high"):
            with sensor.sandbox(name) as sandbox:
                sandbox.python(MISCHIEF)
                sensor.wait(sandbox, kind="response" if name != "plain" else "detection")
            sensor.wait(sandbox, kind="sandbox", change="ended")
        assert sensor.process is not None
        os.kill(sensor.process.pid, signal.SIGHUP)
        sensor.until(lambda: [line for line in sensor.lines() if line["kind"] == "notice"], "the reload's notice")
        lines = sensor.lines()
    validator = jsonschema.Draft202012Validator(schema())
    assert [(line, error.message) for line in lines for error in validator.iter_errors(line)] == []
    assert {line["kind"] for line in lines} == {"event", "detection", "response", "sandbox", "notice"}
    assert {line["category"] for line in lines if line["kind"] == "event"} == {
        "process_creation",
        "process_termination",
        "network_connection",
        "device_access",
    }
    assert {line["Protocol"] for line in lines if "Protocol" in line} >= {"udp", "unix"}
