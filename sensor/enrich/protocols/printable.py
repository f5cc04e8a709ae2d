"""Bytes of a stranger to text that a terminal, a label and a rule can bear."""

from __future__ import annotations

from sensor.enrich.protocols.result import TEXT_MAX


def text(raw: bytes) -> str:
    """At most TEXT_MAX characters; what is not printable ASCII becomes U+FFFD, one a byte."""
    said = raw[:TEXT_MAX].decode("ascii", "replace")
    return said if said.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in said)
