"""What a relay's evidence is worth, and the event that says so."""

from __future__ import annotations

from sensor.configdetect import RelaySettings
from sensor.detect.behavior import behavior, cookies, endpoint, processes
from sensor.detect.conservation import UNKNOWN, worth
from sensor.detect.flows import trusted_name
from sensor.detect.windows import Relayed
from sensor.detect.world import World
from sensor.events.activity import NetworkBehavior

SSH_PORT = 22
SEVERAL = 3  # targets: a reverse SOCKS proxy, dialling as it is told


def parts_of(relayed: Relayed, settings: RelaySettings, world: World) -> dict[str, int]:
    """In the fixed order of ScoreParts. Empty: nothing that counts yet."""
    outer, window = relayed.via or relayed.outer, relayed.window
    if outer is None or not relayed.dial:
        return {}
    result = relayed.conservation(settings)
    now = window is not None and (window.kind != "inversion" or window.attached) and window.proven(settings)
    episodes = relayed.episodes + now
    flows = [outer, *(window.flows.values() if window is not None else ())]
    protocol = any(flow.tunnel or flow.reversed for flow in flows) and not _allowed(relayed, world)
    web = outer.http and not relayed.asked_after_dial and not protocol
    targets = relayed.targets
    parts = {
        "dial": relayed.dial,
        "repetition": min(settings.repetition, settings.repetition_each * max(0, episodes - 1)),
        "conservation": worth(result, settings),
        "target": min(
            settings.target,
            settings.target // 2 * ((SSH_PORT in targets.values()) + (len(targets) >= SEVERAL)),
        ),
        "protocol": settings.protocol if protocol else 0,
        "request_response": settings.request_response if web else 0,
        "private_peer": settings.private_peer if outer.event.DestinationIsPrivate else 0,
    }
    shown = result.both and result.percent >= settings.conserved_percent
    # Compressed, too small to tell, or over a unix socket: a tunnel's own protocol makes up for it.
    shown = shown or (protocol and (result.percent == UNKNOWN or result.percent >= settings.weak_percent))
    if not shown and (over := sum(parts.values()) - settings.unproven_at_most) > 0:
        parts["unproven"] = -over
    return parts


def accuse(
    relayed: Relayed, parts: dict[str, int], now_ns: int, world: World, settings: RelaySettings
) -> list[NetworkBehavior]:
    outer, accused = relayed.via or relayed.outer, relayed.accused
    if outer is None or accused is None:
        return []
    window = relayed.window
    trunk = dict.fromkeys([outer.cookie])
    if relayed.outer is not None:
        trunk[relayed.outer.cookie] = None
    flows = [outer]
    if window is not None:
        trunk.update(dict.fromkeys(window.flows))
        flows = list({flow.cookie: flow for flow in (outer, *window.flows.values())}.values())
    totals = [flow.read(world) for flow in flows]
    inner, port = next(reversed(relayed.targets.items()))
    address, bar, _ = inner.partition("|")
    event = behavior(
        "relay",
        accused,
        parts,
        now_ns,
        outer,
        Cookies=cookies([*trunk, *(cookie for cookie in reversed(relayed.legs) if cookie and cookie not in trunk)]),
        Inner=endpoint(address, port) if bar else inner,
        InnerPort=port,
        HolderProcessIds=processes([*(tgid for flow in flows for tgid in flow.holders), accused.ProcessId]),
        Repetitions=relayed.episodes,
        Conservation=max(0, relayed.conservation(settings).percent),
        DistinctDestinations=len(relayed.targets),
        BytesOut=sum(total[0] for total in totals),
        BytesIn=sum(total[1] for total in totals),
    )
    return [event]


def _allowed(relayed: Relayed, world: World) -> bool:
    """SSH to a host that the egress list names is what the list is for; conserved bytes still tell of a relay."""
    outer = relayed.via or relayed.outer
    if outer is None:
        return False
    event = outer.event
    return world.egress_allowed(event.SandboxClass, event.DestinationIp, event.DestinationPort, trusted_name(event))
