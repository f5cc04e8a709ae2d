"""Floods, reuse and disorder: nothing raises, grows, or hides the tunnel beside it."""

from __future__ import annotations

import random

from sensor.configdetect import DetectSettings, FlowSettings
from tests.detect.scene import MS, OUTSIDE, SECOND, Scene
from tests.detect.test_relay_tunnels import CLIENT, raw_relays, ssh_relays


def test_a_flood_of_flows_to_one_peer_pushes_out_its_own() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    for _ in range(2000):
        scene.connect(800, "203.0.113.99", 80)
    assert scene.detectors.counters["flows_evicted"] > 1000
    scene.wait(5)
    raw_relays(scene, outer)
    assert scene.score("relay") >= 60


def test_a_flood_of_flows_to_many_peers_does_not_push_out_a_tunnel() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    for number in range(2000):
        scene.connect(800, f"100.64.{number // 250}.{number % 250}", 80)
    ssh_relays(scene, outer)
    assert scene.score("relay") >= 80


def test_a_flood_of_inversions_does_not_hide_one() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    noise = [scene.connect(800, "203.0.113.99", 80) for _ in range(200)]
    scene.wait(5)
    scene.push(outer, 20)
    for _ in range(10):
        for cookie in noise:
            scene.push(cookie, 100)
    inner = scene.connect(CLIENT, "127.0.0.1", 8080)
    scene.move(outer, in_=80, out=4096)
    scene.move(inner, out=80, in_=4096)
    scene.end(inner)
    assert scene.score("relay") >= 60


def test_scans_of_proc_have_a_budget() -> None:
    scene = Scene()
    outer = [scene.connect(800 + number, f"203.0.113.{number}", 443) for number in range(50)]
    for _ in range(20):
        for cookie in outer:
            scene.push(cookie, 100)
            scene.connect(900, "127.0.0.1", 8080)
        scene.at += 500 * MS
    assert 0 < scene.world.scans <= FlowSettings().scans_a_minute
    assert scene.detectors.counters["scans_over_budget"] > 0


def test_a_number_used_again_is_another_process() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    scene.wait(5)
    scene.exits(CLIENT)
    scene.push(outer, 100)
    scene.connect(CLIENT, "127.0.0.1", 22, guid=f"{CLIENT}-2")
    assert scene.of("relay") == []


def test_a_holder_that_ended_is_forgotten() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    socket = ("socket", scene.inode(outer))
    scene.process(710, "/tmp/x", CLIENT, stdin=socket, stdout=("pipe", 3))
    scene.exits(710)
    scene.wait(5)
    scene.push(outer, 100)
    scene.connect(710, "127.0.0.1", 22)
    assert scene.of("relay") == []


def test_a_cookie_with_another_peer_is_another_flow() -> None:
    """An unconnected UDP socket, and an end that comes for the former."""
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 51_820, protocol="udp")
    former = scene.flows[outer]
    scene._next = outer - 1
    again = scene.connect(CLIENT, "203.0.113.11", 51_820, protocol="udp")
    assert again == outer
    assert scene.detectors.counters["flow_cookies_reused"] == 1
    current, scene.flows[outer] = scene.flows[outer], former
    scene.end(outer)
    scene.flows[outer] = current
    assert scene.produced == []


def test_ends_and_first_bytes_of_flows_that_were_never_told() -> None:
    scene = Scene()
    lost = scene.connect(CLIENT, OUTSIDE, 443, told=False)
    scene.recognise(lost, "ssh")
    scene.tell(scene.flows[lost])
    scene.wait(2)
    raw_relays(scene, lost)
    assert scene.score("relay") >= 80
    other = scene.connect(CLIENT, OUTSIDE, 443, told=False)
    scene.push(other, 100)
    scene.end(other)
    assert scene.detectors.counters["inversions_of_unknown_flows"] == 1


def test_the_outer_flow_may_end_first() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(5)
    scene.push(outer, 20)
    inner = scene.connect(CLIENT, "127.0.0.1", 8080)
    scene.move(outer, in_=80, out=4096)
    scene.move(inner, out=80, in_=4096)
    scene.end(outer)
    scene.end(inner)
    assert scene.score("relay") >= 60


def test_many_inner_flows_of_one_stretch_are_bounded() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(5)
    scene.push(outer, 20)
    for _ in range(3000):
        scene.connect(CLIENT, "127.0.0.1", 8080)
    assert scene.detectors.counters["relay_legs_not_followed"] > 0
    before = scene.world.reads
    scene.wait(10)
    assert scene.world.reads - before < 1500


def test_many_short_dials_do_not_spoil_the_comparison() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(5)
    scene.push(outer, 20)
    inner = scene.connect(CLIENT, "127.0.0.1", 8080)
    for _ in range(300):
        scene.end(scene.connect(CLIENT, "127.0.0.1", 9))
    scene.move(outer, in_=80, out=4096)
    scene.move(inner, out=80, in_=4096)
    scene.end(inner)
    assert scene.score("relay") >= 60


def test_an_inner_flow_whose_end_was_lost_is_given_up() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    scene.wait(5)
    scene.push(outer, 20)
    inner = scene.connect(CLIENT, "127.0.0.1", 8080)
    scene.move(outer, in_=80, out=4096)
    scene.move(inner, out=80, in_=4096)
    scene.wait(0.2)
    del scene.world.now[inner]
    scene.wait(5)
    assert scene.score("relay") >= 60
    assert not scene.detectors._relay._open


def test_silent_inner_flows_are_looked_at_ever_less() -> None:
    scene = Scene()
    outer = scene.connect(CLIENT, OUTSIDE, 443)
    for _ in range(20):
        scene.connect(CLIENT, "127.0.0.1", 8080)
    scene.wait(5)
    before = scene.world.reads
    scene.wait(600)
    assert scene.world.reads - before < 600 / 10 * 21 + 300
    scene.push(outer, 30)


def test_state_goes_with_the_sandbox() -> None:
    scene = Scene()
    for sandbox in range(50):
        outer = scene.connect(CLIENT, OUTSIDE, 443, sandbox=sandbox)
        scene.recognise(outer, "ssh")
        scene.connect(CLIENT, "127.0.0.1", 22, sandbox=sandbox)
        scene.process(9, "/bin/sh", stdin=("pipe", 1), sandbox=sandbox)
        scene.sandbox_ends(sandbox)
    detectors = scene.detectors
    assert len(detectors._flows.sandboxes) == 0
    parts = (detectors._relay, detectors._beacon, detectors._mining, detectors._fan_out, detectors._idle_tunnel)
    for part in (*parts, detectors._tun_flow, detectors._holding, detectors._reverse_shell):
        assert len(part._sandboxes) == 0
    assert not detectors._relay._open
    scene.wait(3)
    assert not detectors.busy


def test_sandboxes_share_what_there_is_evenly() -> None:
    scene = Scene(DetectSettings(flows=FlowSettings(per_sandbox=64, in_all=256, floor=8)))
    for sandbox in range(40):
        for number in range(100):
            scene.connect(CLIENT, f"203.0.113.{number % 20}", 443, sandbox=sandbox)
    for sandbox in range(40):
        scene.connect(CLIENT, OUTSIDE, 443, sandbox=sandbox)
    sizes = [len(table.flows) for _, table in scene.detectors._flows.sandboxes.items()]
    assert len(sizes) == 40 and max(sizes) <= 8


def test_states_of_sandboxes_that_never_end_are_bounded() -> None:
    scene = Scene(DetectSettings(flows=FlowSettings(sandboxes=10)))
    for sandbox in range(100):
        scene.connect(CLIENT, OUTSIDE, 443, sandbox=sandbox)
    assert len(scene.detectors._flows.sandboxes) == 10
    assert scene.detectors.counters["flows_sandboxes_evicted"] == 90


def test_a_sandbox_cannot_make_events_without_end() -> None:
    """A new peer for each: peers are its to invent."""
    scene = Scene()
    for number in range(400):
        outer = scene.connect(CLIENT, f"203.0.{number // 200}.{number % 200}", 443)
        scene.recognise(outer, "ssh")
        scene.push(outer, 30)
        scene.connect(CLIENT, "127.0.0.1", 22)
        scene.end(outer)
    assert len(scene.of("relay")) <= 64
    assert scene.detectors.counters["behaviors_over_hourly_limit"] > 0


def test_any_order_of_anything_raises_nothing() -> None:
    chance = random.Random(1)  # noqa: S311 - a test's order, the same each time
    scene = Scene()
    for _ in range(4000):
        tgid = chance.randrange(700, 720)
        live = [cookie for cookie in scene.flows if cookie in scene.world.now][-100:]
        act = chance.randrange(12)
        if act < 3 or not live:
            address = chance.choice([OUTSIDE, "127.0.0.1", "10.0.0.1", "203.0.113.50"])
            scene.connect(tgid, address, chance.choice([22, 443, 8080]), initiated=chance.random() < 0.8)
        elif act == 3:
            scene.push(chance.choice(live), chance.randrange(3000))
        elif act == 4:
            scene.move(chance.choice(live), out=chance.randrange(9000), in_=chance.randrange(9000))
        elif act == 5:
            scene.end(chance.choice(live))
        elif act == 6:
            scene.recognise(chance.choice(live), chance.choice(["ssh", "tls", "http", "shell", "stratum", "unknown"]))
        elif act == 7:
            stream = (chance.choice(["socket", "pipe", "pty"]), chance.choice(live) + 7000)
            scene.process(tgid, chance.choice(["/bin/sh", "/tmp/x"]), tgid - 1, stdin=stream)
        elif act == 8:
            scene.unix(tgid, "/run/x.sock")
        elif act == 9:
            scene.device(tgid)
        elif act == 10:
            scene.exits(tgid)
        else:
            scene.at += chance.randrange(3 * SECOND)
            scene.wait(0.1)
    assert len(scene.produced) > 0
