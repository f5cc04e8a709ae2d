"""Idle tunnels, and tun devices with a flow beside them."""

from __future__ import annotations

import pytest

from tests.detect.scene import OUTSIDE, Scene

CLIENT = 700


def keepalives(scene: Scene, flow: int, minutes: int, size: int = 80) -> None:
    for _ in range(minutes * 4):
        scene.wait(15)
        scene.move(flow, out=size, in_=size)


@pytest.mark.parametrize("protocol", ["ssh", "wireguard", "openvpn", "frp", "bore", "chisel", "wstunnel", "yamux"])
def test_a_tunnel_that_only_keeps_alive(protocol: str) -> None:
    scene = Scene()
    flow = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(flow, protocol)
    scene.move(flow, out=3000, in_=4000)
    keepalives(scene, flow, 8)
    assert scene.of("idle_tunnel") == []
    keepalives(scene, flow, 4)
    assert scene.score("idle_tunnel") == 60
    keepalives(scene, flow, 120)
    assert scene.score("idle_tunnel") == 80
    assert scene.of("idle_tunnel")[-1].ApplicationProtocol == protocol


def test_an_uncertain_protocol_is_less() -> None:
    scene = Scene()
    flow = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(flow, "yamux", Certain=False)
    keepalives(scene, flow, 12)
    assert scene.score("idle_tunnel") == 40


@pytest.mark.parametrize("case", ["allowed", "private", "busy", "short", "websocket", "accepted"])
def test_what_is_no_idle_tunnel(case: str) -> None:
    scene = Scene()
    address = "10.0.0.8" if case == "private" else OUTSIDE
    if case == "allowed":
        scene.world.allowed.add(OUTSIDE)
    flow = scene.connect(CLIENT, address, 22, initiated=case != "accepted")
    scene.recognise(flow, "http" if case == "websocket" else "ssh", Upgrade="websocket" if case == "websocket" else "")
    for _ in range(60):
        keepalives(scene, flow, 1, size=80)
        if case == "busy":
            scene.move(flow, in_=9000)
        if case == "short" and scene.flows[flow] and flow in scene.world.now:
            scene.end(flow)
            flow = scene.connect(CLIENT, address, 22)
            scene.recognise(flow, "ssh")
    assert scene.of("idle_tunnel") == []


def test_an_allowed_name_must_be_a_resolvers() -> None:
    """A sandbox's own hosts file may call anything github.com."""
    scene = Scene()
    scene.world.allowed.add("github.com")
    flow = scene.connect(CLIENT, OUTSIDE, 22)
    scene.recognise(flow, "ssh", DestinationHostname="github.com", HostnameTrusted=False)
    keepalives(scene, flow, 12)
    assert scene.score("idle_tunnel") == 60


def test_a_flood_of_tunnels_leaves_the_old_one() -> None:
    scene = Scene()
    flow = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(flow, "ssh")
    for number in range(60):
        scene.recognise(scene.connect(CLIENT, f"203.0.113.{number + 20}", 22), "ssh")
    keepalives(scene, flow, 12)
    assert f"{flow:x}" in {event.Cookies for event in scene.of("idle_tunnel")}
    assert scene.detectors.counters["idle_tunnels_evicted"] > 0


@pytest.mark.parametrize("device_first", [True, False])
@pytest.mark.parametrize("who", ["same", "fork", "parent", "child"])
@pytest.mark.parametrize("protocol", ["udp", "tcp", "icmp"])
def test_a_tun_device_and_a_flow(protocol: str, who: str, device_first: bool) -> None:
    scene = Scene()
    opener = {"same": CLIENT, "fork": CLIENT + 1, "parent": CLIENT + 2, "child": CLIENT + 3}[who]
    scene.fork(CLIENT, CLIENT + 1)
    scene.world.parents |= {CLIENT: CLIENT + 2, CLIENT + 3: CLIENT}
    if device_first:
        scene.device(opener)
        scene.wait(20)
    scene.connect(CLIENT, OUTSIDE, 51_820, protocol=protocol)
    if not device_first:
        scene.wait(20)
        scene.device(opener)
    assert scene.score("tun_flow") >= 60
    event = scene.of("tun_flow")[0]
    assert (event.ProcessId, event.DestinationIp, event.Protocol) == (opener, OUTSIDE, protocol)


def test_first_bytes_raise_it() -> None:
    scene = Scene()
    scene.device(CLIENT)
    flow = scene.connect(CLIENT, OUTSIDE, 51_820, protocol="udp")
    scene.recognise(flow, "wireguard")
    assert scene.score("tun_flow") == 80


@pytest.mark.parametrize("case", ["refused", "mknod", "other", "loopback", "late", "device"])
def test_what_is_no_vpn(case: str) -> None:
    scene = Scene()
    kind = "drm" if case == "device" else "tun"
    if case == "refused":
        scene.device(CLIENT, Verdict="refused")
    elif case == "mknod":
        scene.device(CLIENT, Access="mknod")
    else:
        scene.device(CLIENT, kind)
    if case == "late":
        scene.wait(600)
    scene.connect(CLIENT + 50 if case == "other" else CLIENT, "127.0.0.1" if case == "loopback" else OUTSIDE, 53)
    assert scene.of("tun_flow") == []


def test_opens_are_bounded() -> None:
    scene = Scene()
    for number in range(100):
        scene.device(CLIENT + number)
    assert scene.detectors.counters["tun_opens_evicted"] == 84
