"""What has half the shape of a relay: no verdict, however long it goes on."""

from __future__ import annotations

import pytest

from tests.detect.scene import MS, OUTSIDE, Scene

VERDICT = 50
AGENT = 500


def agent_turn(scene: Scene, llm: int, turn: int, *, own: bool, reply: int = 3000, packets: int = 12) -> None:
    """The model thinks, its reply streams, a tool asks a server on localhost, and the whole history goes up again."""
    scene.wait(3)
    scene.push(llm, reply, packets=packets)
    scene.at += 120 * MS
    tool = AGENT if own else AGENT + 1 + turn
    if not own:
        scene.process(tool, "/usr/bin/curl", AGENT, stdin=("null", 0), stdout=("pipe", 5))
    inner = scene.connect(tool, "127.0.0.1", 8000)
    scene.at += 4 * MS
    scene.move(inner, out=170, in_=2200)
    scene.end(inner)
    scene.at += 6 * MS
    scene.move(llm, out=2000 + (turn + 1) * 3000)
    scene.wait(0.4)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("wire", ["tls", "tls-h2", "raw"])
def test_an_agents_loop_of_fifty_turns(own: bool, wire: str) -> None:
    scene = Scene()
    llm = scene.connect(AGENT, OUTSIDE, 443)
    if wire != "raw":
        scene.recognise(llm, "tls", Alpn="h2,http/1.1" if wire == "tls-h2" else "")
    scene.move(llm, out=4000, in_=4500)
    for turn in range(50):
        agent_turn(scene, llm, turn, own=own)
    assert scene.score("relay") < VERDICT


@pytest.mark.parametrize(("reply", "packets"), [(700, 5), (1500, 2), (9000, 60)])
def test_replies_of_other_sizes(reply: int, packets: int) -> None:
    scene = Scene()
    llm = scene.connect(AGENT, OUTSIDE, 443)
    scene.recognise(llm, "tls", Alpn="http/1.1")
    for turn in range(50):
        agent_turn(scene, llm, turn, own=True, reply=reply, packets=packets)
    assert scene.score("relay") < VERDICT


def test_an_agent_that_posts_a_large_page_up() -> None:
    """The outward half is conserved then: a page of 100 kB goes from localhost into the prompt."""
    scene = Scene()
    llm = scene.connect(AGENT, OUTSIDE, 443)
    for _ in range(20):
        scene.wait(3)
        scene.push(llm, 3000, packets=12)
        inner = scene.connect(AGENT, "127.0.0.1", 8000)
        scene.move(inner, out=170, in_=100_000)
        scene.end(inner)
        scene.move(llm, out=105_000)
        scene.wait(0.3)
    assert scene.score("relay") < VERDICT


def test_an_llm_proxy_on_localhost_and_the_agent_behind_it() -> None:
    """agent → 127.0.0.1:4000 → outside: the chain that ssh behind stunnel makes, with an agent's bytes."""
    scene = Scene()
    proxy = 600
    llm = scene.connect(AGENT, "127.0.0.1", 4000, source=("127.0.0.1", 41_000))
    scene.connect(proxy, "127.0.0.1", 41_000, initiated=False, source=("127.0.0.1", 4000))
    up = scene.connect(proxy, OUTSIDE, 443)
    for turn in range(50):
        scene.move(up, out=3000, in_=3000)
        agent_turn(scene, llm, turn, own=True)
    assert scene.score("relay") < VERDICT


def test_an_mcp_bridge_at_the_agents_pipes() -> None:
    """The server stands where ncat's child stands, and dials for each call."""
    scene = Scene()
    llm = scene.connect(AGENT, OUTSIDE, 443)
    scene.process(AGENT + 1, "/usr/bin/mcp-server", AGENT, stdin=("pipe", 1), stdout=("pipe", 2))
    for turn in range(50):
        scene.wait(2)
        scene.push(llm, 2500, packets=10)
        inner = scene.connect(AGENT + 1, "127.0.0.1", 5432)
        scene.move(inner, out=300, in_=900)
        scene.end(inner)
        scene.move(llm, out=4000 + turn * 1500)
    assert scene.score("relay") < VERDICT


def test_accepted_flows_are_never_outer_ones() -> None:
    """ROCK's rocklet (`/portforward`) and SWE-ReX: accept from outside, then connect to loopback, conserved."""
    scene = Scene()
    for server, port in ((510, 22_555), (520, 8000)):
        asked = scene.connect(server, "203.0.113.77", 40_000 + server, initiated=False, source=("10.0.0.2", port))
        for _ in range(20):
            scene.wait(3)
            scene.push(asked, 400)
            inner = scene.connect(server, "127.0.0.1", 3000)
            scene.move(inner, out=400, in_=5000)
            scene.move(asked, out=5000)
            scene.end(inner)
    assert scene.of("relay") == []


def test_a_dev_server_and_a_jupyter_kernel_on_loopback() -> None:
    scene = Scene()
    for _ in range(20):
        scene.wait(2)
        page = scene.connect(530, "127.0.0.1", 3000)
        scene.connect(540, "127.0.0.1", 30_000, initiated=False, source=("127.0.0.1", 3000))
        scene.push(page, 4000)
        kernel = scene.connect(540, "127.0.0.1", 50_001)
        scene.move(kernel, out=500, in_=500)
        scene.end(page, kernel)
    assert scene.produced == []


def test_redis_pushes_and_a_postgres_pool_beside_an_outside_api() -> None:
    scene = Scene()
    api = scene.connect(550, OUTSIDE, 443)
    scene.recognise(api, "tls", Alpn="h2")
    redis = scene.connect(550, "127.0.0.1", 6379)
    pool = [scene.connect(550, "127.0.0.1", 5432) for _ in range(5)]
    for number in range(60):
        scene.wait(5)
        scene.push(redis, 200)
        scene.move(pool[number % 5], out=300, in_=2000)
        scene.push(api, 1500)
        extra = scene.connect(550, "127.0.0.1", 5432)
        scene.move(extra, out=400, in_=900)
        scene.end(extra)
        scene.move(api, out=700)
    assert scene.score("relay") < VERDICT


def test_an_etl_job_loads_what_it_downloads() -> None:
    """What came in goes on to a local database: a flow in one direction, with an answer of its own in the other."""
    scene = Scene()
    for _ in range(10):
        source = scene.connect(560, OUTSIDE, 443)
        scene.recognise(source, "tls", Alpn="http/1.1")
        scene.move(source, out=900, in_=205_000)
        scene.at += 300 * MS
        store = scene.connect(560, "127.0.0.1", 9200)
        scene.move(store, out=230_000, in_=9000)
        scene.end(source)
        scene.end(store)
        scene.wait(30)
    assert scene.score("relay") < VERDICT


def test_a_metrics_agent_scrapes_localhost_and_pushes_out() -> None:
    scene = Scene()
    push = scene.connect(570, OUTSIDE, 443)
    scene.recognise(push, "tls", Alpn="h2")
    for _ in range(60):
        scene.wait(15)
        scrape = scene.connect(570, "127.0.0.1", 9100)
        scene.move(scrape, out=180, in_=60_000)
        scene.end(scrape)
        scene.at += 200 * MS
        scene.move(push, out=5000, in_=120)
    assert scene.score("relay") < VERDICT


def test_a_websocket_client_with_pings_that_dials_now_and_then() -> None:
    scene = Scene()
    socket = scene.connect(580, OUTSIDE, 443)
    scene.recognise(socket, "http", Upgrade="websocket")
    for number in range(60):
        scene.wait(20)
        scene.push(socket, 30)
        scene.move(socket, out=34)
        if number % 3 == 0:
            inner = scene.connect(580, "127.0.0.1", 8000)
            scene.move(inner, out=2000, in_=300)
            scene.end(inner)
    assert scene.score("relay") < VERDICT


def test_a_paramiko_script_that_also_asks_a_local_model() -> None:
    """A tunnel's protocol, data before each dial, and bytes that are not the tunnel's."""
    scene = Scene()
    remote = scene.connect(590, OUTSIDE, 22)
    scene.recognise(remote, "ssh")
    for _ in range(30):
        scene.wait(10)
        scene.push(remote, 900)
        model = scene.connect(590, "127.0.0.1", 11_434)
        scene.move(model, out=6000, in_=2500)
        scene.end(model)
        scene.move(remote, out=120)
        scene.wait(0.3)
    assert scene.score("relay") < VERDICT


def test_git_over_ssh_to_an_allowed_host() -> None:
    scene = Scene()
    scene.world.allowed.add(OUTSIDE)
    for _ in range(10):
        git = scene.connect(595, OUTSIDE, 22)
        scene.recognise(git, "ssh")
        scene.move(git, out=5000, in_=900_000)
        scene.end(git)
        scene.wait(60)
    assert scene.of("relay") == []


def test_pip_npm_and_a_torch_rendezvous() -> None:
    scene = Scene()
    for number in range(40):
        flow = scene.connect(600, f"203.0.113.{20 + number % 5}", 443)
        scene.recognise(flow, "tls", Alpn="h2")
        scene.move(flow, out=1200, in_=300_000)
        scene.end(flow)
        scene.at += 200 * MS
    for rank in range(8):
        store = scene.connect(610 + rank, "10.0.0.5", 29_500)
        scene.move(store, out=500, in_=700)
        scene.push(store, 300)
        scene.connect(610 + rank, "127.0.0.1", 40_000 + rank)
    scene.wait(30)
    assert scene.score("relay") < VERDICT


def test_a_child_that_does_not_hold_the_flow_is_no_dialler() -> None:
    """The agent's tool connects within milliseconds of the reply, and conserves by chance."""
    scene = Scene()
    llm = scene.connect(AGENT, OUTSIDE, 443)
    scene.wait(5)
    scene.push(llm, 200)
    scene.process(AGENT + 1, "/usr/bin/curl", AGENT)
    inner = scene.connect(AGENT + 1, "127.0.0.1", 8000)
    scene.move(llm, in_=80, out=4096)
    scene.move(inner, out=80, in_=4096)
    scene.end(inner)
    scene.wait(1)
    assert scene.of("relay") == []


def test_lookups_and_loggers_are_not_dials() -> None:
    scene = Scene()
    outer = scene.connect(AGENT, OUTSIDE, 443)
    scene.recognise(outer, "ssh")
    for _ in range(20):
        scene.wait(5)
        scene.push(outer, 100)
        scene.unix(AGENT, "/run/nscd/socket")
        scene.unix(AGENT, "/run/refused.sock", verdict="refused")
        scene.connect(AGENT, "127.0.0.53", 53, protocol="udp")
    assert scene.of("relay") == []
