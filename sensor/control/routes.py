"""What there is on the control socket: one table, of which the server, the client's paths and the OpenAPI document
are made."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sensor.control.arguments import ALL

Method = Literal["GET", "POST", "DELETE"]


class Route(Struct, frozen=True):
    """`operation`: of arguments.ALL, which says what it is asked with; members that `path` names come from there, the
    others from the query (GET, DELETE) or the body (POST). `answer` names a schema of openapi.py."""

    method: Method
    path: str
    operation: str
    summary: str
    answer: str
    status: int = 200

    @property
    def arguments(self) -> type[Struct]:
        return ALL[self.operation]


class Provided(Struct, frozen=True):
    """An answer without arguments, as the core's providers give it."""

    name: str
    path: str
    summary: str
    answer: str


class Streamed(Struct, frozen=True):
    path: str
    detections: bool  # only these
    summary: str


PROVIDED = (
    Provided("status", "/v1/status", "The sensor: what it watches, what it lost, whether it enforces.", "Status"),
    Provided("sandboxes", "/v1/sandboxes", "All live sandboxes.", "Sandboxes"),
    Provided("rules", "/v1/rules", "The rules in force.", "Rules"),
)
STREAMED = (
    Streamed("/v1/events/stream", detections=False, summary="The log's records as they are written."),
    Streamed("/v1/detections/stream", detections=True, summary="Detections as they are written."),
)
ROUTES = (
    Route("GET", "/v1/sandboxes/{ref}", "sandbox", "One sandbox, with all that is known of it.", "Sandbox"),
    Route("GET", "/v1/sandboxes/{ref}/tree", "tree", "Its processes, and who forked whom.", "Tree"),
    Route("POST", "/v1/sandboxes/{ref}/kill", "kill", "Kill everything in it.", "Killed"),
    Route("POST", "/v1/sandboxes/{ref}/attributes", "attributes", "Say what it is, for its class.", "Attributes"),
    Route("GET", "/v1/quarantines", "quarantines", "Those in force; all=1: ended ones too.", "Quarantines"),
    Route("POST", "/v1/quarantines", "quarantine_add", "Quarantine a sandbox.", "Quarantine", 202),
    Route("GET", "/v1/quarantines/{id}", "quarantine", "One quarantine, with its steps.", "Quarantine"),
    Route("POST", "/v1/quarantines/{id}/release", "quarantine_release", "Undo it.", "Quarantine", 202),
    Route("POST", "/v1/quarantines/{id}/kill", "quarantine_kill", "Kill what is in it, and end it.", "Quarantine", 202),
    Route("GET", "/v1/policy", "policy", "The policy in force.", "Policy"),
    Route("POST", "/v1/policy/explain", "explain", "What would happen, and which line says so.", "Explanation"),
    Route("POST", "/v1/policy/reload", "reload", "Read rules and policy again; the status tells when.", "Asked", 202),
    Route("POST", "/v1/disarm", "disarm", "Lift all enforcement.", "Armed"),
    Route("POST", "/v1/arm", "arm", "Enforce again.", "Armed"),
    Route("GET", "/v1/detections", "detections", "The latest detections, newest first.", "Detections"),
    Route("GET", "/v1/detections/{id}", "detection", "One of the latest detections.", "Detection"),
    Route("POST", "/v1/detections/{id}/ack", "acknowledge", "Say that somebody has seen to it.", "Acknowledged"),
    Route("GET", "/v1/silences", "silences", "What is not told of, and until when.", "Silences"),
    Route("POST", "/v1/silences", "silence_add", "Tell of something no more for a while.", "Silence"),
    Route("DELETE", "/v1/silences/{id}", "silence_remove", "Tell of it again.", "Silence"),
    Route("GET", "/v1/recording", "recording", "The recording that goes on, or the last.", "Recording"),
    Route("POST", "/v1/recording", "recording_begin", "Write down what the sensor reads.", "Recording", 202),
    Route("POST", "/v1/recording/end", "recording_end", "Close the recording.", "Recording"),
    Route("GET", "/v1/top", "top", "Rates of the last second.", "Top"),
)  # fmt: skip
