"""What a policy says it would do: the kernel's answers, each with the line that says so."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.config import Config, SandboxClass, complete, load
from sensor.confignetwork import Egress, EgressEntry, longest, packed_address, prefixes
from sensor.errors import UsageError
from sensor.respond import questions
from sensor.respond.egress import egress_entries, matches
from sensor.respond.explain import Answer, Host, explain
from sensor.respond.policy import Subject, class_index
from sensor.respond.questions import Question

POLICY = """\
metrics: {listen: "127.0.0.1:9817"}
dns: {resolvers: [10.0.0.53]}
classes:
  agents:
    mode: enforce
    granted_devices:
    - kvm
    - nvidia:1
    - fuse
    denied_protocols: [ssh]
    egress:
      default: deny
      allow:
      - {to: 10.0.0.0/8, ports: [443, "8000-8010"], protocol: tcp}
      - {to: 192.0.2.0/24, protocol: icmp}
      - {to: "*.example.org", ports: [443]}
      - {to: "2001:db8::/32"}
    denied_executables:
      paths:
      - /usr/bin/nc.traditional
      - socat
      sha256: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]
      memfd: true
    shells_on_sockets: deny
    responses:
      high: quarantine
      rules:
      - {tag: "attack.t1496*", score_at_least: 50, action: kill-sandbox}
  watched:
    denied_executables: {paths: [socat]}
    egress: {default: deny, loopback: deny}
    responses: {high: kill}
  open: {}
"""
DEVICES = "Character devices:\n  1 mem\n 10 misc\n195 nvidia\n226 drm\n508 nvidia-uvm\n\nBlock devices:\n259 blkext\n"


class Asked:
    def __init__(self, folder: Path) -> None:
        for name in ("proc", "dev"):
            (folder / name).mkdir()
        (folder / "proc/devices").write_text(DEVICES)
        self.host = Host(str(folder / "proc"), str(folder / "sys"), str(folder / "dev"))
        self.file = str(folder / "policy.yaml")
        Path(self.file).write_text(POLICY)
        self.config = load(self.file)

    def answer(self, class_name: str, kind: str, text: str) -> Answer:
        ask: dict[str, Callable[[str], Question]] = {
            "connect": questions.connect, "device": questions.device, "exec": questions.executable,
        }  # fmt: skip
        question = ask[kind](text)
        return explain(self.config, class_name, question, file=self.file, host=self.host)


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def line_of(text: str) -> int:
    return POLICY.splitlines().index(text) + 1


DENY = "      default: deny"
TEN = '      - {to: 10.0.0.0/8, ports: [443, "8000-8010"], protocol: tcp}'
ORG = '      - {to: "*.example.org", ports: [443]}'


@pytest.mark.parametrize(
    ("kind", "text", "verdict", "line"),
    [
        ("connect", "10.1.2.3:443", "allowed", TEN),
        ("connect", "10.1.2.3:8005", "allowed", TEN),
        ("connect", "10.1.2.3:443/udp", "refused", DENY),
        ("connect", "10.1.2.3:22", "refused", DENY),
        ("connect", "[::ffff:10.1.2.3]:443", "allowed", TEN),
        ("connect", "192.0.2.9/icmp", "allowed", "      - {to: 192.0.2.0/24, protocol: icmp}"),
        ("connect", "192.0.2.9:80", "refused", DENY),
        ("connect", "[2001:db8::1]:1/udp", "allowed", '      - {to: "2001:db8::/32"}'),
        ("connect", "[2001:db9::1]:1", "refused", DENY),
        ("connect", "a.example.org:443", "allowed", ORG),
        ("connect", "A.Example.ORG.:443", "allowed", ORG),
        ("connect", "example.org:443", "refused", DENY),
        ("connect", "a.example.org:22", "refused", DENY),
        ("connect", "127.0.0.1:9817", "refused", 'metrics: {listen: "127.0.0.1:9817"}'),
        ("device", "kvm", "allowed", "    - kvm"),
        ("device", "/dev/kvm", "allowed", "    - kvm"),
        ("device", "10:232", "allowed", "    - kvm"),
        ("device", "nvidia1", "allowed", "    - nvidia:1"),
        ("device", "195:1", "allowed", "    - nvidia:1"),
        ("device", "nvidiactl", "allowed", "    - nvidia:1"),
        ("device", "nvidia-uvm", "allowed", "    - nvidia:1"),
        ("device", "c:508:0", "allowed", "    - nvidia:1"),
        ("device", "nvidia0", "refused", "    granted_devices:"),
        ("device", "nvidia", "refused", "    granted_devices:"),
        ("device", "block:195:1", "refused", "    granted_devices:"),
        ("device", "b8:0", "refused", "    granted_devices:"),
        ("device", "/dev/mem", "refused", "    granted_devices:"),
        ("device", "dri/renderD128", "refused", "    granted_devices:"),
        ("exec", "/usr/bin/nc.traditional", "killed", "      - /usr/bin/nc.traditional"),
        ("exec", "/opt/socat", "killed", "      - socat"),
        ("exec", "socat", "killed", "      - socat"),
        ("exec", "/usr/bin/python3", "allowed", "      paths:"),
        ("exec", "a" * 64, "killed", f"      sha256: [{'a' * 64}]"),
        ("exec", "sha256:" + "A" * 64, "killed", f"      sha256: [{'a' * 64}]"),
        ("exec", "b" * 64, "allowed", f"      sha256: [{'a' * 64}]"),
        ("exec", "memfd", "killed", "      memfd: true"),
        ("exec", "shell-on-socket", "killed", "    shells_on_sockets: deny"),
    ],
)
def test_a_verdict_and_its_line(asked: Asked, kind: str, text: str, verdict: str, line: str) -> None:
    answer = asked.answer("agents", kind, text)
    assert (answer.verdict, answer.line, answer.default) == (verdict, line_of(line), False), answer
    assert answer.place("p.yaml").startswith(f"p.yaml:{answer.line}: ")


@pytest.mark.parametrize(
    ("kind", "text", "verdict", "key"),
    [
        ("connect", "127.0.0.1:80", "allowed", "classes.agents.egress.loopback"),
        ("connect", "[::1]:80", "allowed", "classes.agents.egress.loopback"),
        ("connect", "0.0.0.0:80", "allowed", "classes.agents.egress.loopback"),
        ("exec", "deleted", "allowed", "classes.agents.denied_executables.deleted"),
        ("exec", "written-inside", "allowed", "classes.agents.denied_executables.written_inside"),
    ],
)
def test_a_default_is_named_as_such(asked: Asked, kind: str, text: str, verdict: str, key: str) -> None:
    answer = asked.answer("agents", kind, text)
    assert (answer.verdict, answer.key, answer.default) == (verdict, key, True)
    assert answer.place("p.yaml") == f"{key} (the default)"


@pytest.mark.parametrize(
    ("kind", "text", "verdict"),
    [
        ("connect", "10.1.2.3:443", "would-refuse"),
        ("connect", "127.0.0.1:80", "would-refuse"),
        ("connect", "a.org:80", "would-refuse"),
        ("connect", "127.0.0.1:9817", "refused"),
        ("device", "kvm", "would-refuse"),
        ("device", "fuse", "allowed"),
        ("exec", "socat", "would-kill"),
        ("exec", "shell-on-socket", "allowed"),
    ],
)
def test_in_monitor_mode_it_is_what_would_be(asked: Asked, kind: str, text: str, verdict: str) -> None:
    answer = asked.answer("watched", kind, text)
    assert answer.verdict == verdict
    assert ("monitor mode" in " ".join(answer.notes)) == verdict.startswith("would")


def test_ordinary_devices_always_may_be(asked: Asked) -> None:
    for text in ("/dev/null", "null", "1:3"):
        answer = asked.answer("agents", "device", text)
        assert (answer.verdict, answer.key, answer.place("x")) == ("allowed", "", "always so")


def test_a_node_of_this_host_is_what_it_is_and_not_what_it_is_called(asked: Asked) -> None:
    os.mknod(f"{asked.host.dev}/kvm", stat.S_IFCHR | 0o600, os.makedev(195, 0))
    (Path(asked.host.dev) / "nvidia1").write_text("no device")
    assert asked.answer("agents", "device", "/dev/kvm").why == "of nvidia only nvidia:1 is granted"
    with pytest.raises(UsageError, match="is no device"):
        asked.answer("agents", "device", "nvidia1")


def test_what_only_shows_later_is_in_the_notes(asked: Asked) -> None:
    def notes(kind: str, text: str) -> str:
        return "; ".join(asked.answer("agents", kind, text).notes)

    assert "ssh is cut at its first bytes" in notes("connect", "10.1.2.3:443")
    assert "*.example.org leads there" in notes("connect", "203.0.113.1:443")
    assert "for as long as its answers last" in notes("connect", "a.example.org:443")
    assert "soon after it began" in notes("exec", "a" * 64)
    assert "not where it is memfd" in notes("exec", "/bin/x")
    assert "ask for the whole path" in notes("exec", "nc.traditional")
    assert "is not on this host" in notes("device", "nvidia1")


def test_names_without_resolvers_lead_nowhere(asked: Asked) -> None:
    Path(asked.file).write_text(POLICY.replace("dns: {resolvers: [10.0.0.53]}\n", ""))
    asked.config = load(asked.file)
    answer = asked.answer("agents", "connect", "a.example.org:443")
    assert (answer.verdict, answer.key) == ("refused", "dns.resolvers")


@pytest.mark.parametrize(
    ("class_name", "subject", "verdict", "key"),
    [
        ("agents", Subject("high"), "quarantine", "classes.agents.responses.high"),
        ("agents", Subject("low"), "log", "classes.agents.responses.low"),
        (
            "agents",
            Subject("low", tags=("attack.t1496.001",), score=50),
            "kill-sandbox",
            "classes.agents.responses.rules[0]",
        ),
        ("agents", Subject("high", tags=("attack.t1496",)), "quarantine", "classes.agents.responses.high"),
        ("watched", Subject("high"), "would-kill", "classes.watched.responses.high"),
        ("open", Subject("critical"), "log", "classes.open.responses.critical"),
    ],
)
def test_detections(asked: Asked, class_name: str, subject: Subject, verdict: str, key: str) -> None:
    answer = explain(asked.config, class_name, subject, file=asked.file)
    assert (answer.verdict, answer.key) == (verdict, key)


def test_unknown_classes_and_devices_are_refused_with_what_was_meant(asked: Asked) -> None:
    for class_name, kind, text, expected in [
        ("agent", "device", "kvm", "did you mean agents?"),
        ("agents", "device", "nvida0", "did you mean nvidia0?"),
        ("agents", "device", "/dev/../etc/passwd", "a node below /dev"),
        ("agents", "device", "/etc/passwd", "a node below /dev"),
        ("agents", "device", "", "a device:"),
    ]:
        with pytest.raises(UsageError) as caught:
            asked.answer(class_name, kind, text)
        assert expected in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "x", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:1/sctp", "10.0.0.1:1/icmp", "x.org/icmp",
     "*.x.org:1", "[::1", "[::1]", "::1:1/tcp/x", "a b:1", "10.0.0:1", "x.org:-1", "x.org:٣"],
)  # fmt: skip
def test_what_is_no_connect(text: str) -> None:
    with pytest.raises(UsageError, match="to connect"):
        questions.connect(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "/a//b", "/a/../b", "/", "sha256:12", "/a\n", "\x1b[2J"])
def test_what_is_no_program(text: str) -> None:
    with pytest.raises(UsageError, match="a program"):
        questions.executable(text)


@given(st.text(max_size=50))
def test_any_text_is_a_question_or_a_refusal(text: str) -> None:
    for ask in (questions.connect, questions.device, questions.executable):
        refusal = ""
        try:
            ask(text)
        except UsageError as error:
            refusal = str(error)
        assert refusal == "" or refusal.isprintable()


# The kernel's verdict.

_networks = st.sampled_from(
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "127.0.0.0/8", "127.0.0.1", "::/0",
     "2001:db8::/32", "2001:db8::1", "::1", "::ffff:0:0/96", "::ffff:10.1.2.3"]
)  # fmt: skip
_entries = st.builds(
    lambda to, ports, protocol: EgressEntry(to, () if protocol == "icmp" else tuple(ports), protocol),
    _networks,
    st.lists(st.sampled_from([0, 22, 443, "20-25", "400-500"]), max_size=3),
    st.sampled_from(["any", "tcp", "udp", "icmp"]),
)
_lists = st.builds(
    lambda default, allow, loopback: Egress() if default == "allow" else Egress("deny", tuple(allow), loopback),
    st.sampled_from(["allow", "deny", "deny", "deny"]),
    st.lists(_entries, max_size=5),
    st.sampled_from(["allow", "deny"]),
)
_hosts = ["10.0.0.1", "10.1.2.3", "10.1.9.9", "192.0.2.1", "127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::",  # noqa: S104
          "2001:db8::1", "2001:db8::2", "2001:db9::1", "::ffff:10.1.2.3", "::ffff:127.0.0.1"]  # fmt: skip


@given(_lists, st.sampled_from(_hosts), st.sampled_from([22, 443, 8080]), st.sampled_from(["tcp", "udp", "icmp"]))
def test_connects_are_answered_as_the_kernel_s_entries_say(egress: Egress, host: str, port: int, protocol: str) -> None:
    config = complete(Config(classes={"a": SandboxClass(mode="enforce", egress=egress)}))
    address = f"[{host}]" if ":" in host else host
    question = questions.connect(f"{address}/icmp" if protocol == "icmp" else f"{address}:{port}/{protocol}")
    answer = explain(config, "a", question)
    assert (answer.verdict == "allowed") == matches(egress, host, question.port, question.protocol)
    if egress.default == "deny":
        table = prefixes(egress)
        lengths = sorted({prefix.bits for prefix in table}, reverse=True)
        ranges = longest(table, lengths, packed_address(host) or 0)
        fits = any(
            each.protocol in (0, question.protocol) and each.low <= question.port <= each.high for each in ranges
        )
        assert (answer.verdict == "allowed") == fits
        assert len(egress_entries(config, class_index(config, {}))) == len(table)
    if ".allow[" in answer.key:
        alone = Egress("deny", (egress.allow[int(answer.key.rpartition("[")[2][:-1])],), "deny")
        assert matches(alone, host, question.port, question.protocol), "the line that is named allows it by itself"


_devices = ["nvidia", "amd", "drm", "accel", "kvm", "tun", "fuse", "memory", "block", "vfio", "infiniband", "other"]


@given(st.sets(st.sampled_from(_devices)), st.booleans(), st.integers(0, 511), st.integers(0, 300))
def test_devices_are_answered_as_the_kernel_s_masks_say(granted: set[str], block: bool, major: int, minor: int) -> None:
    from sensor.enrich.devices import Classifier, device_table  # noqa: PLC0415
    from sensor.respond.policy import device_mask  # noqa: PLC0415

    config = Config(classes={"a": SandboxClass(mode="enforce", granted_devices=tuple(granted))})
    answer = explain(config, "a", questions.device(f"{'block' if block else 'char'}:{major}:{minor}"))
    table = device_table(Path("/proc/devices").read_text())
    class_ = Classifier(table).classify(1 if block else 2, major, minor)
    assert (answer.verdict == "allowed") == bool(device_mask(tuple(granted)) >> class_ & 1)
