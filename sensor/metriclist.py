"""Every metric of pinfold, declared once. `sensor/metrics.py` counts in them."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sensor.events.detection import LEVELS
from sensor.events.layouts import Device, Loss

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip

# What is lost, by stage, as far as it shall be there with 0 from the start.
LOSS_REASONS: dict[str, tuple[str, ...]] = {
    "kernel": tuple(loss.name.lower() for loss in Loss if loss is not Loss.REASONS),
    "ring": ("corrupt", "gap"),
    "decode": ("corrupt", "short", "unknown_type"),
    "files": ("budget", "overflow", "unattributed", "unresolved", "unwatched"),
    "enrich": ("error", "processes_full", "sandboxes_full"),
    "log": ("error", "full", "journal"),
    "api": ("not_read", "unanswered"),
}

CATEGORIES = (
    "process_creation", "network_connection", "device_access", "process_termination", "sandbox_change", "network_flow",
    "network_protocol", "dns_query", "network_listen", "network_behavior", "process_migration", "sensor_access",
    "file_event", "file_access", "file_rename", "file_delete", "file_change", "system_call",
)  # fmt: skip
ACTIONS = ("kill", "freeze", "quarantine", "kill-sandbox")
OUTCOMES = (
    "done", "would", "gone", "never_touch", "failed", "announced", "silenced", "acknowledged", "excepted", "budget",
)  # fmt: skip
VERDICTS = ("allowed", "refused", "would_refuse", "unrecorded", "protected", "egress", "would_egress", "quarantine")
SOCKETS = ("destroyed", "gone", "unsupported", "failed")
BEHAVIORS = (
    "relay", "reverse_shell", "beacon", "mining_session", "fan_out", "idle_tunnel", "tun_flow", "dns_tunnel",
    "cpu_burn",
)  # fmt: skip
PROTOCOLS = (
    "ssh", "tls", "quic", "http", "socks", "dns", "stratum", "getblocktemplate", "stratum2", "wireguard", "openvpn",
    "frp", "bore", "chisel", "wstunnel", "devtunnels", "yamux", "shell",
)  # fmt: skip
CONTAINED = ("killed", "gone", "never_touch", "failed", "would")
TAMPERED = ("link", "pin", "map", "control", "sandbox", "tracer", "stopped")
DEVICE_CLASSES = tuple(device.name.lower() for device in Device if device is not Device.ORDINARY)
QUARANTINES = (
    "beginning", "held", "releasing", "released", "killing", "killed", "ended", "failed", "damaged",
)  # fmt: skip
QUARANTINE_STEPS = (
    "network", "sockets", "devices", "exec", "freeze", "evidence", "hold", "kill", "thaw", "continue", "lift",
)  # fmt: skip
REFUSED_PEERS = ("busy", "foreign", "sandboxed", "unverified")
STATUSES = ("200", "202", "400", "403", "404", "405", "409", "413", "429", "500", "503")
PATHS = (
    "/metrics", "/v1/status", "/v1/sandboxes", "/v1/rules", "/v1/quarantines", "/v1/policy", "/v1/detections",
    "/v1/silences", "/v1/top", "/v1/events", "other",
)  # fmt: skip

Kind = Literal["counter", "gauge", "histogram"]


class Metric(Struct, frozen=True):
    """`values` has a label's declared values; an empty tuple leaves the label free, up to `most` series."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: tuple[tuple[str, ...], ...] = ()
    buckets: tuple[float, ...] = ()
    series: tuple[tuple[str, ...], ...] = ()  # there from the start, with 0; where empty: every declared combination
    most: int = 64
    owner: Literal["core", "api"] = "core"


METRICS: tuple[Metric, ...] = (
    Metric("pinfold_events_total", "counter", "Events read from the ring, by category.", ("category",), (CATEGORIES,)),
    Metric("pinfold_detections_total", "counter", "Rules that matched.", ("rule", "level"), ((), LEVELS), most=16384),
    Metric(
        "pinfold_detections_silenced_total",
        "counter",
        "Rules that matched while an operator's silence was in force: they are not in pinfold_detections_total.",
        ("rule", "level"),
        ((), LEVELS),
        most=16384,
    ),
    Metric(
        "pinfold_detections_folded_total",
        "counter",
        "Repeats that were counted and not told: of a detection, or beyond a rule's rate in a sandbox.",
        ("rule", "level"),
        ((), LEVELS),
        most=16384,
    ),
    Metric(
        "pinfold_correlation_evicted_total",
        "counter",
        "What correlations gave up: groups that were too many, oldest first; a group's values; events that were late.",
        ("what",),
        (("groups", "items", "late"),),
    ),
    Metric(
        "pinfold_correlation_state_failures_total",
        "counter",
        "Times that what correlations hold could not be written down: after a restart they say partial.",
    ),
    Metric(
        "pinfold_responses_total",
        "counter",
        "Responses by outcome; `would` is monitor mode or disarmed.",
        ("action", "outcome"),
        (ACTIONS, OUTCOMES),
    ),
    Metric(
        "pinfold_responses_unsettled_total",
        "counter",
        "Responses that were not followed to their end, since too many were under way.",
    ),
    Metric(
        "pinfold_response_budget_exceeded_total",
        "counter",
        "Quarantines and freezes that were only told, since their class had as many in the last minute as it may.",
    ),
    Metric(
        "pinfold_events_lost_total",
        "counter",
        "Events that were lost, by where and why.",
        ("stage", "reason"),
        (tuple(LOSS_REASONS), ()),
        series=tuple((stage, reason) for stage, reasons in LOSS_REASONS.items() for reason in reasons),
        most=128,
    ),
    Metric(
        "pinfold_events_unsent_total",
        "counter",
        "Events that the kernel counted and did not send, since no rule can match them (log.unmatched: false).",
        ("category",),
        (("device_access", "network_connection"),),
    ),
    Metric("pinfold_sandboxes", "gauge", "Live sandboxes."),
    Metric("pinfold_sandboxes_unknown", "gauge", "Live sandboxes of which events were lost, so that nothing is sure."),
    Metric("pinfold_processes", "gauge", "Live processes of sandboxes."),
    Metric(
        "pinfold_detection_latency_seconds",
        "histogram",
        "From an event in the kernel to its detection.",
        buckets=LATENCY_BUCKETS,
    ),
    Metric(
        "pinfold_response_latency_seconds",
        "histogram",
        "From an event in the kernel to the end of the response to it.",
        buckets=LATENCY_BUCKETS,
    ),
    Metric("pinfold_ring_used_bytes", "gauge", "Most bytes of the ring that waited in the last second."),
    Metric("pinfold_ring_size_bytes", "gauge", "Size of the event ring."),
    Metric("pinfold_rules", "gauge", "Rules by what became of them.", ("state",), (("loaded", "refused"),)),
    Metric("pinfold_rule_errors_total", "counter", "Rules that failed on an event.", ("rule",), ((),), most=4096),
    Metric(
        "pinfold_rule_evaluations_total",
        "counter",
        "Branches of rules that were evaluated, since the index could not rule them out.",
        ("rule",),
        ((),),
        most=16384,
    ),
    Metric(
        "pinfold_rule_seconds_total",
        "counter",
        "Processor time that these took, extrapolated from one in 64.",
        ("rule",),
        ((),),
        most=16384,
    ),
    Metric("pinfold_rules_dear", "gauge", "Rules that take more than 2 µs of each event of their category."),
    Metric("pinfold_build_info", "gauge", "Always 1.", ("version", "kernel", "abi"), ((), (), ()), most=4),
    Metric("pinfold_start_time_seconds", "gauge", "When the sensor started, in Unix time."),
    Metric(
        "pinfold_device_attempts_total",
        "counter",
        "Opens and mknods of devices in sandboxes.",
        ("device_class", "verdict"),
        (DEVICE_CLASSES, VERDICTS),
        most=128,
    ),
    Metric("pinfold_connects_total", "counter", "Connects in sandboxes.", ("verdict",), (VERDICTS,)),
    Metric("pinfold_behaviors_total", "counter", "Behaviours that detectors derived.", ("behavior",), (BEHAVIORS,)),
    Metric(
        "pinfold_detector_bounds_total",
        "counter",
        "What detectors dropped at a bound of theirs: a sandbox that fills one hides nothing unseen.",
        ("bound",),
        ((),),
    ),
    Metric(
        "pinfold_protocols_total",
        "counter",
        "Flows of which the first bytes told the protocol, each direction by itself.",
        ("protocol",),
        (PROTOCOLS,),
    ),
    Metric(
        "pinfold_sockets_destroyed_total",
        "counter",
        "Sockets of denied flows and quarantined sandboxes, by what became of them.",
        ("outcome",),
        (SOCKETS,),
    ),
    Metric(
        "pinfold_containment_seconds",
        "histogram",
        "From a process's move out of its sandbox's cgroup, in the kernel, to the SIGKILL it got.",
        buckets=LATENCY_BUCKETS,
    ),
    Metric(
        "pinfold_containments_total",
        "counter",
        "Processes that left their sandbox's cgroup, or moved others out of it; `would` is monitor mode or disarmed.",
        ("outcome",),
        (CONTAINED,),
    ),
    Metric(
        "pinfold_tampering_total",
        "counter",
        "Differences between what the sensor put into the kernel and what was found there, and other interference.",
        ("what",),
        (TAMPERED,),
    ),
    Metric("pinfold_guard_rounds_total", "counter", "Times that links, pins and maps were verified: once a second."),
    Metric("pinfold_guard_seconds_total", "counter", "CPU time spent on that."),
    Metric("pinfold_sandboxes_tamperable", "gauge", "Live sandboxes with rights by which they can reach the sensor."),
    Metric(
        "pinfold_programs_unread_total",
        "counter",
        "Programs of classes that deny some by content, which could not be read: their child was busy, late or gone.",
        ("reason",),
        (("waiting", "child", "late"),),
    ),
    Metric(
        "pinfold_quarantines",
        "gauge",
        "Quarantines in the ledger, by state; `damaged` are files of it that cannot be read.",
        ("state",),
        (QUARANTINES,),
    ),
    Metric(
        "pinfold_quarantine_steps_total",
        "counter",
        "Steps of quarantines, of releases and of kills, by what became of them.",
        ("step", "outcome"),
        (QUARANTINE_STEPS, ("done", "failed", "skipped")),
    ),
    Metric(
        "pinfold_quarantine_seconds",
        "histogram",
        "From what a quarantine follows to its denial in the kernel, to all standing still, and to its last step.",
        ("to",),
        (("cut", "frozen", "held"),),
        buckets=LATENCY_BUCKETS,
    ),
    Metric("pinfold_file_marks", "gauge", "Files and directories of sandboxes that are marked for file events."),
    Metric(
        "pinfold_file_events_outside_total",
        "counter",
        "Events at marked files that processes outside every sandbox caused: they are dropped, and were paid for.",
    ),
    Metric(
        "pinfold_file_looks_total",
        "counter",
        "Looks into sandboxes' roots for what is to be marked, by what became of them.",
        ("outcome",),
        (("done", "cut", "partial", "gone", "refused", "stalled", "passed_over"),),
    ),
    Metric("pinfold_names_unwritten_total", "counter", "Addresses of allowed names that the map did not take."),
    Metric("pinfold_flows", "gauge", "Living flows of sandboxes."),
    Metric("pinfold_enforcing", "gauge", "1 while armed, 0 after `pinfold disarm`."),
    Metric("pinfold_log_bytes_total", "counter", "Bytes written to the event log."),
    Metric("pinfold_replayed_events_total", "counter", "Events read again after a restart, told already."),
    Metric("pinfold_recursion_misses_total", "counter", "Runs of a probe that the kernel skipped."),
    Metric("pinfold_reloads_total", "counter", "Reloads of the configuration.", ("outcome",), (("done", "failed"),)),
    Metric("pinfold_watch_gaps_total", "counter", "Times that a parent of sandboxes was unwatched for a while."),
    Metric("pinfold_api_restarts_total", "counter", "Times that the api process died and was started again."),
    Metric(
        "pinfold_series_overflow_total",
        "counter",
        "Samples that were counted as `unknown`, since their metric has enough series.",
        ("metric",),
        ((),),
    ),
    Metric(
        "pinfold_api_requests_total",
        "counter",
        "Requests that the api process answered.",
        ("path", "status"),
        (PATHS, STATUSES),
        most=128,
        owner="api",
    ),
    Metric(
        "pinfold_api_refused_total",
        "counter",
        "Connections that the api process closed unanswered.",
        ("reason",),
        (REFUSED_PEERS,),
        owner="api",
    ),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in METRICS}
