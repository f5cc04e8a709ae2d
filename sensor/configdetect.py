"""Thresholds of the detectors. Each default says what argues for it; the tests named are in tests/detect/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import cast

from msgspec import Struct

from sensor.configfile import KeyPath, Problem, found


class FlowSettings(Struct, frozen=True, forbid_unknown_fields=True):
    sandboxes: int = 4096  # as limits.sandboxes; what a detector keeps of more is dropped, oldest first
    per_sandbox: int = 256  # live flows in detail: a browser holds some 50 (test_flows)
    in_all: int = 16384  # 2 KB each; shared evenly, once there are more sandboxes than in_all / per_sandbox
    floor: int = 8  # what a sandbox may have whatever the others do
    scans_a_minute: int = 30  # of /proc, for one sandbox: at some 5 ms each, 0.25 % of a core (test_relay_hostile)
    scan_again_ms: int = 2000  # holders of one socket are believed this long


class RelaySettings(Struct, frozen=True, forbid_unknown_fields=True):
    dial_ms: int = 500  # from data to dial: two round trips to a far server, for clients that re-dial (frp, bore)
    reorder_ms: int = 20  # records of two CPUs may come swapped by < 10 ms
    pair_ms: int = 3000  # flows dialled together, as socat and `ncat -e` do (test_relay_tunnels)
    grace_ms: int = 150  # after the end of the inner flow, for what is under way; longer would count an agent's prompt
    evaluate_ms: int = 1000  # of inner flows that live on
    fixed_bytes: int = 128  # a mux's or WebSocket's opening
    fixed_tunnel_bytes: int = 320  # SSH: channel open 100, confirmation, window adjust, eof and close 36 each
    packet_bytes: int = 48  # TLS record 22, WebSocket 6..14, mux header 12; more lets agents pass (test_relay_benign)
    packet_tunnel_bytes: int = 80  # SSH packet with MAC 38..64, once more in TLS and WebSocket for chisel
    handshake_in_bytes: int = 6000  # a TLS server's certificates, on data flows that were re-dialled
    handshake_out_bytes: int = 1500  # ClientHello with post-quantum key share
    lag_ms: int = 20  # from an answer to its going on: pipes and a busy CPU take some; a program that thinks takes more
    slack_percent: int = 5  # retransmits, record headers of bulk
    compression: int = 4  # outer flow smaller by up to this: ssh -C over text; such a direction counts as:
    compressed_percent: int = 70
    quiet_bytes: int = 32  # a direction with less on both flows is unknown, not conserved
    weak_bytes: int = 512  # framing alone explains anything smaller, so it is worth at most:
    weak_percent: int = 60
    conserved_percent: int = 80  # from here, flows that no inversion joined count (test_relay_benign: ETL, metrics)
    # Points. dial + conservation is a verdict (60) at the first relayed connection; dial + repetition + target is
    # none (45) after any number of agent turns (test_relay_benign).
    dial: int = 15
    dial_unprompted: int = 10
    dial_late: int = 5  # the inner flow was there before the outer one
    conservation: int = 45
    repetition: int = 20
    repetition_each: int = 5
    target: int = 10
    protocol: int = 25
    request_response: int = -15  # HTTP clients read replies and then do things: a relay in one is told on repetition
    private_peer: int = -10
    unproven_at_most: int = 49  # without conservation, and where it is unknown, without a tunnel's protocol
    marks: tuple[int, ...] = (30, 50, 60, 80)
    events_an_hour: int = 64  # a sandbox; a peer has at most one a mark and hour
    peers: int = 64  # a sandbox
    legs: int = 64  # inner flows of one window: a browser opens 6 a host
    inversions: int = 256  # that wait for a dial, a sandbox: as many as flows are known


class ReverseShellSettings(Struct, frozen=True, forbid_unknown_fields=True):
    shells: tuple[str, ...] = (
        "sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "busybox", "fish", "tcsh", "csh", "rbash", "pwsh", "nu",
        "xonsh",
    )  # fmt: skip
    interpreters: tuple[str, ...] = ("python", "perl", "ruby", "php", "lua", "node", "tclsh", "expect", "awk", "gawk")
    check_ms: tuple[int, ...] = (100, 1000)  # after a connect: dup2 follows within a script line; a late FLOW record
    step_ms: int = 500  # from data to a program that the shell starts
    steps: int = 3  # typed commands that make it a session (test_reverse_shell: agent with a shell by a pipe)
    typed_bytes: int = 512  # a line, in TLS too; a model's reply with HTTP's head is more (test_reverse_shells, live)
    waiting: int = 32  # follow-ups a sandbox
    watched: int = 64  # shells at a pipe or pty, a sandbox
    scans_a_minute: int = 20  # of /proc for who feeds them, where parentage does not tell; a sandbox
    marks: tuple[int, ...] = (30, 50, 60, 80)
    events_an_hour: int = 64
    keys: int = 256


class BeaconSettings(Struct, frozen=True, forbid_unknown_fields=True):
    every_s: int = 5  # counters are read
    fast_s: int = 1  # of flows that changed between two reads
    slow_s: int = 30  # of flows quiet for `slow_after_s`
    slow_after_s: int = 120
    flows: int = 16  # read, a sandbox: 16 look-ups in 5 s
    peers: int = 64  # a sandbox
    small_bytes: int = 2048  # an exchange; a check-in with its HTTP or TLS is below it
    small_percent: int = 80  # of exchanges: a beacon now and then carries a task
    exchanges: int = 6
    remembered: int = 32
    period_min_s: float = 2.0
    period_max_s: float = 7200.0
    jitter_percent: int = 35  # IQR / median. Uniform ±30 % jitter, as implants offer, has an IQR of 30 %
    long_s: int = 1800
    # Points. Without a raw protocol, 50: WebSocket pings, LLM keep-alives (test_beacon)
    regular: int = 20
    precise: int = 10  # below a third of jitter_percent
    long: int = 15
    raw: int = 20
    public: int = 5
    private_peer: int = -20
    marks: tuple[int, ...] = (40, 60)
    events_an_hour: int = 32


class MiningSettings(Struct, frozen=True, forbid_unknown_fields=True):
    stratum: int = 90
    getblocktemplate: int = 80
    uncertain: int = 60  # Stratum v2 shows by lengths only
    age_s: int = 600
    rate_bytes_s: int = 2048  # jobs and shares are some 100 B/s; Pearl's proofs of 600 kB are minutes apart
    pushes: int = 10  # inversions
    push_bytes: int = 4096  # a job with its merkle branch is ~1.5 kB
    push_small_percent: int = 80
    cpu_percent: int = 70  # of one CPU
    cpu_busy_percent: int = 50  # of all CPUs
    every_s: int = 30
    flows: int = 16  # a sandbox
    ask_gpu_from: int = 40
    # Points. pushed + long + slow + cpu + wire = 65; training beside an HTTP client to a dashboard: 50 (test_mining)
    pushed: int = 20
    long: int = 10
    slow: int = 10
    cpu: int = 15
    cpu_all: int = 5
    gpu: int = 15
    wire: int = 10
    request_response: int = -25
    marks: tuple[int, ...] = (40, 60, 80)
    events_an_hour: int = 32


class FanOutSettings(Struct, frozen=True, forbid_unknown_fields=True):
    window_s: int = 60
    slow_window_s: int = 3600  # for scans that take their time; thresholds are `slow_factor` times as high
    slow_factor: int = 4
    hosts: int = 128  # public addresses in a window: a browser meets ~40 a minute, npm some tens (test_fan_out)
    private_hosts: int = 64  # a /24 is 254; a training job of 64 nodes meets 63
    ports: int = 64  # of one host: a cluster's workers listen on tens
    loopback_ports: int = 512  # test runners and kernels take an ephemeral port each
    remembered: int = 2048  # pairs of address and port a window: 16 times any threshold of the short one but loopback's
    factors: tuple[int, ...] = (1, 4, 16)
    scores: tuple[int, ...] = (60, 75, 90)
    private: int = 10
    events_an_hour: int = 32


class IdleTunnelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    age_s: int = 600  # `git fetch` over ssh ends before; a person's session has input (test_idle_tunnel)
    quiet_s: int = 300  # only keep-alives for so long
    every_s: int = 60
    keepalive_bytes: int = 2048  # both ways in `every_s`: ServerAliveInterval 15 makes 4 × 2 × 80
    long_s: int = 1800
    very_long_s: int = 7200
    flows: int = 32  # a sandbox
    protocol: int = 40
    uncertain: int = -20
    quiet: int = 20
    long: int = 10
    very_long: int = 10
    marks: tuple[int, ...] = (40, 60, 80)
    events_an_hour: int = 32


class TunFlowSettings(Struct, frozen=True, forbid_unknown_fields=True):
    window_s: int = 120  # wireguard-go opens the device, and speaks when `wg set` has told it a peer
    opens: int = 16  # remembered, a sandbox
    tun: int = 40
    same: int = 20  # the process that opened it, or its fork
    related: int = 10  # parent or child
    public: int = 10
    protocol: int = 10  # WireGuard, OpenVPN, DNS
    marks: tuple[int, ...] = (40, 60, 80)
    events_an_hour: int = 16


class DnsTunnelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Defaults are held by tests/detect/test_dns_tunnel.py: each tunnel's names as its protocol makes them, and
    ordinary names of the look-alikes. Of two numbers, a part of the score begins at the first and is full at the
    second."""

    window_s: int = 60
    # New names in the window. Tunnels pass 20 within seconds of data; one page of a browser asks for fewer of a domain.
    names: tuple[int, ...] = (5, 20)
    # Characters of new labels a new name. S3 buckets and Kubernetes names have up to 25, dnscat2 34 at least (when
    # idle), iodine and dns2tcp 100 to 240 with data. One name of 40 characters carries some 20 bytes.
    length: tuple[int, ...] = (18, 44)
    # Thousandths of a bit. Words and numbers: 2,500 to 3,300; hex of 34 characters 3,600, base32 of 100 4,700.
    entropy: tuple[int, ...] = (2800, 3600)
    # Percent of questions for types with room. dnscat2 and iodine ask for nothing else; resolving hosts is A and AAAA.
    types: tuple[int, ...] = (10, 50)
    # Bytes an answer. A CDN's chain of CNAMEs is 150 to 300, iodine's fragments 500 and more.
    answers: tuple[int, ...] = (250, 500)
    again_s: int = 3600  # a level is told this often, a domain
    events_an_hour: int = 64  # a sandbox: it may invent a domain for each twenty names
    domains_per_sandbox: int = 256  # a browser's morning; the least recently asked go
    domains: int = 8192  # in all sandboxes, 1.2 KB each
    idle_s: int = 600  # what was not asked for this long is forgotten
    # Zones that nobody outside can own, asked of a resolver of the host or a private address. Cluster names hold
    # hashes, and search paths ask for everything in them first.
    internal: tuple[str, ...] = ("local", "internal", "localhost", "lan", "home.arpa", "test", "invalid")
    trusted: tuple[str, ...] = ()  # registered domains that the operator knows to have such names: reputation services


class CpuBurnSettings(Struct, frozen=True, forbid_unknown_fields=True):
    every_s: int = 60
    core_percent: int = 50  # of one CPU, from one look to the next; less is a weak sample
    steady_percent: int = 90  # of samples that are not weak: builds and test runs wait for people and networks
    age_s: int = 7200  # longer than a build or a test run (test_cpu_burn)
    very_long_s: int = 28_800
    single_percent: int = 80  # of the time, in one program that lives still
    cpu_all_percent: int = 80  # of all CPUs
    # Points. long + single is told at medium; long alone, a loop of short programs, at low, and at medium after hours.
    long: int = 40
    very_long: int = 20
    single: int = 20
    cpu_all: int = 15
    marks: tuple[int, ...] = (40, 60, 80)
    events_an_hour: int = 4


class DetectSettings(Struct, frozen=True, forbid_unknown_fields=True):
    flows: FlowSettings = FlowSettings()
    relay: RelaySettings = RelaySettings()
    reverse_shell: ReverseShellSettings = ReverseShellSettings()
    beacon: BeaconSettings = BeaconSettings()
    mining: MiningSettings = MiningSettings()
    fan_out: FanOutSettings = FanOutSettings()
    idle_tunnel: IdleTunnelSettings = IdleTunnelSettings()
    tun_flow: TunFlowSettings = TunFlowSettings()
    dns_tunnel: DnsTunnelSettings = DnsTunnelSettings()
    cpu_burn: CpuBurnSettings = CpuBurnSettings()


# Points of a score: each way it is counted a part may add at most all, or take away at most all.
_POINTS = frozenset(
    {
        "conservation", "cpu", "cpu_all", "dial", "dial_late", "dial_unprompted", "getblocktemplate", "gpu", "long",
        "pushed", "precise", "private", "private_peer", "protocol", "public", "quiet", "raw", "regular", "related",
        "repetition", "repetition_each", "request_response", "same", "single", "slow", "stratum", "target", "tun",
        "uncertain", "unproven_at_most", "very_long", "wire",
    }
)  # fmt: skip
# Times of which nothing would come, or a division by zero. The others may be 0: at once, or no slack.
_PERIODS = frozenset(
    {
        "evaluate_ms", "every_s", "fast_s", "idle_s", "period_max_s", "period_min_s", "slow_s", "slow_window_s",
        "window_s",
    }
)  # fmt: skip
_PAIRS = ("names", "length", "entropy", "types", "answers")
_RISING = {"check_ms": (0, 3_600_000), "factors": (1, 1_000_000), "marks": (1, 100), "scores": (0, 100)}
_EXCHANGES_LEAST = 3  # two gaps: one is regular whatever it is
_MOST_MS, _MOST_S, _MOST_BYTES, _MOST_COUNT = 3_600_000, 30 * 86_400, 1 << 30, 1 << 20
_MOST_WORDS = 256
_PROGRAM = re.compile(r"[^/\s]{1,64}")
_DOMAIN = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
# The first has a use only while it is no more than the second.
_AT_MOST = (
    ("flows", "floor", "per_sandbox"),
    ("beacon", "exchanges", "remembered"),
    ("beacon", "period_min_s", "period_max_s"),
)


def detect_problems(detect: DetectSettings) -> Iterator[Problem]:
    wrong = [problem for group in detect.__struct_fields__ for problem in _group_problems(detect, group)]
    yield from wrong
    named = {problem.path for problem in wrong}
    for group, lower, upper in _AT_MOST:
        low, high = (getattr(getattr(detect, group), name) for name in (lower, upper))
        at = ("detect", group, lower)
        if low > high and not named & {at, ("detect", group, upper)}:
            yield Problem(at, f"at most {upper}, which is {high}", found(low))


def _group_problems(detect: DetectSettings, group: str) -> Iterator[Problem]:
    settings = cast(Struct, getattr(detect, group))
    defaults = type(settings)()
    for name in settings.__struct_fields__:
        at, value = ("detect", group, name), getattr(settings, name)
        if isinstance(value, tuple):
            yield from _list_problems(at, value)
            continue
        least, most = _range(name, getattr(defaults, name))
        if not least <= value <= most:  # and not with the sides swapped: nothing compares to .nan
            yield Problem(at, f"{least} to {most}", found(value))


def _range(name: str, default: float) -> tuple[float, float]:
    """A setting's unit is in its name. Points that take away stay such: as a reward they would lead astray."""
    if name in _POINTS:
        return (0, 100) if default >= 0 else (-100, 0)
    if name.endswith("_percent"):
        return 0, 100
    if name.endswith(("_bytes", "_bytes_s")):
        return 0, _MOST_BYTES
    if name.endswith("_ms"):
        return int(name in _PERIODS), _MOST_MS
    if name.endswith("_s"):
        return (int(name in _PERIODS) if isinstance(default, int) else 0.01), _MOST_S
    return _EXCHANGES_LEAST if name == "exchanges" else 1, _MOST_COUNT


def _list_problems(at: KeyPath, values: tuple[object, ...]) -> Iterator[Problem]:
    name = str(at[-1])
    if name in _PAIRS:
        pair = cast("tuple[int, ...]", values)
        if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= _MOST_COUNT:
            yield Problem(at, f"two numbers from 0 to {_MOST_COUNT}, the lower first", _shown(pair))
    elif name in _RISING:
        yield from _rising(at, cast("tuple[int, ...]", values), *_RISING[name])
    else:
        yield from _words(at, cast("tuple[str, ...]", values))


def _rising(at: KeyPath, values: tuple[int, ...], least: int, most: int) -> Iterator[Problem]:
    if not values:
        yield Problem(at, "at least one number", "none")
    for index, value in enumerate(values):
        if not least <= value <= most:
            yield Problem((*at, index), f"{least} to {most}", found(value))
    if any(later < earlier for earlier, later in pairwise(values)):
        yield Problem(at, "the lower numbers first", _shown(values))


def _words(at: KeyPath, words: tuple[str, ...]) -> Iterator[Problem]:
    """What could never match is refused: whoever wrote it relies on it."""
    program = at[-1] in {"shells", "interpreters"}
    kind, shape = ("a program's name, without /", _PROGRAM) if program else ("a domain in lower case", _DOMAIN)
    if len(words) > _MOST_WORDS:
        yield Problem(at, f"at most {_MOST_WORDS}", found(len(words)))
        return
    for index, word in enumerate(words):
        if not word.isprintable() or not shape.fullmatch(word):
            yield Problem((*at, index), kind, found(word))


def _shown(values: tuple[int, ...]) -> str:
    return ", ".join(map(found, values[:4])) + ", …" * (len(values) > 4) or "none"
