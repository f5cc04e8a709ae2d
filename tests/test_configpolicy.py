"""Policy in the configuration: single devices, executables, responses, assignments, examples, and whose file it is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.config import load
from sensor.configassign import Assignment
from sensor.configdevices import SingleDevice, granted_classes, granted_singles, grants_gpu, parse_grant
from sensor.configexamples import Example, ExampleDetection
from sensor.configexecutables import MOST_PATH_BYTES
from sensor.configfile import lines
from sensor.confignetwork import prefix_of
from sensor.configrespond import ResponseException, ResponseRule, parse_destination
from sensor.errors import ConfigError
from tests.test_config import EXAMPLE, refusal

UUID = "GPU-5a1f3c9d-0a1b-2c3d-4e5f-60718293a4b5"


@pytest.fixture
def written(tmp_path: Path) -> Any:
    def write(content: str) -> str:
        path = tmp_path / "pinfold.yaml"
        path.write_text(content)
        return str(path)

    return write


def of_class(**settings: Any) -> str:
    return yaml.safe_dump({"classes": {"a": settings}})


def responding(**settings: Any) -> str:
    return of_class(responses=settings)


@pytest.mark.parametrize(
    ("before", "kind", "where"),
    [
        ("rules: []", ResponseRule, "responses: {rules: [ENTRIES]}"),
        ("exceptions: []", ResponseException, "responses: {exceptions: [ENTRIES]}"),
        ("assign: []", Assignment, ""),
        ("examples: []", Example, ""),
    ],
)
def test_the_example_s_entries_are_entries_and_show_every_key(
    written: Any, before: str, kind: type[msgspec.Struct], where: str
) -> None:
    shown = re.search(rf"((?:^ *# +- \{{.*\}}$\n)+) *#{re.escape(before)}", EXAMPLE.read_text(), re.MULTILINE)
    assert shown is not None
    entries = re.findall(r"(\{.*\})$", shown[1], re.MULTILINE)
    keys = {key for entry in entries for key in yaml.safe_load(entry)}
    assert keys == {field.encode_name for field in msgspec.structs.fields(kind)}
    listed = ", ".join(entries)
    name = before.partition(":")[0]
    text = f"classes: {{a: {{{where.replace('ENTRIES', listed)}}}}}" if where else f"{name}: [{listed}]"
    settings = load(written(text))
    found = getattr(settings.classes["a"].responses if where else settings, name)
    assert len(found) == len(entries) >= 1


GRANT = "one of nvidia, amd, drm,"


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (of_class(granted_devices=["nvida"]), "classes.a.granted_devices[0]", GRANT),
        (of_class(granted_devices=["nvidia:254"]), "classes.a.granted_devices[0]", "a number from 0 to 253"),
        (of_class(granted_devices=["nvidia:GPU-5a"]), "classes.a.granted_devices[0]", "a number from 0 to 253"),
        (of_class(granted_devices=[f"nvidia:MIG-{UUID}"]), "classes.a.granted_devices[0]", "a whole GPU"),
        (of_class(granted_devices=["kvm:0"]), "classes.a.granted_devices[0]", "kvm as a whole"),
        (of_class(granted_devices=["gpu:0"]), "classes.a.granted_devices[0]", GRANT),
        (of_class(granted_devices=["nvidia:1", "nvidia:01"]), "classes.a.granted_devices[1]", "each device once"),
        (of_class(granted_devices=["nvidia:1", "nvidia"]), "classes.a.granted_devices[0]", "nvidia or some of its"),
        (of_class(granted_devices=["drm"] * 257), "classes.a.granted_devices", "at most 256"),
        (of_class(denied_executables={"paths": ["usr/bin/nc"]}), "classes.a.denied_executables.paths[0]", "an abs"),
        (of_class(denied_executables={"paths": ["/usr//nc"]}), "classes.a.denied_executables.paths[0]", "a path with"),
        (
            of_class(denied_executables={"paths": ["/usr/../nc"]}),
            "classes.a.denied_executables.paths[0]",
            "a path with",
        ),
        (of_class(denied_executables={"paths": ["/usr/"]}), "classes.a.denied_executables.paths[0]", "a path with"),
        (of_class(denied_executables={"paths": [""]}), "classes.a.denied_executables.paths[0]", "an absolute path, or"),
        (of_class(denied_executables={"paths": ["nc", "nc"]}), "classes.a.denied_executables.paths[1]", "each entry"),
        (
            of_class(denied_executables={"paths": ["/" + "x" * MOST_PATH_BYTES]}),
            "classes.a.denied_executables.paths[0]",
            "at most 119 bytes",
        ),
        (of_class(denied_executables={"sha256": ["A" * 64]}), "classes.a.denied_executables.sha256[0]", "64 hexa"),
        (of_class(shells_on_sockets="no"), "classes.a.shells_on_sockets", "one of allow, deny"),
        (responding(rules=[{"action": "kill"}]), "classes.a.responses.rules[0]", "rule, tag, level or score_at_least"),
        (responding(rules=[{"level": "high"}]), "classes.a.responses.rules[0]", "the key action"),
        (
            responding(rules=[{"level": "high", "action": "kil"}]),
            "classes.a.responses.rules[0].action",
            "one of log, kill, freeze",
        ),
        (
            responding(rules=[{"score_at_least": 101, "action": "log"}]),
            "classes.a.responses.rules[0].score_at_least",
            "0 to 100",
        ),
        (
            responding(rules=[{"level": "high", "action": "kill"}, {"level": "high", "rule": "x", "action": "log"}]),
            "classes.a.responses.rules[1]",
            "an entry that no earlier one fits as well",
        ),
        (
            responding(rules=[{"tag": "attack.t[1]", "action": "log"}]),
            "classes.a.responses.rules[0].tag",
            "* and ? as the only wildcards",
        ),
        (responding(grace_seconds=3601), "classes.a.responses.grace_seconds", "0 to 3600"),
        (
            responding(budget={"quarantines_per_minute": 1001}),
            "classes.a.responses.budget.quarantines_per_minute",
            "0 to 1000",
        ),
        (
            responding(high="quarantine", budget={"quarantines_per_minute": 0}),
            "classes.a.responses.budget.quarantines_per_minute",
            "1 or more, since",
        ),
        (
            responding(exceptions=[{"executable": "git", "destination": "10.0.0.1", "reason": "x"}]),
            "classes.a.responses.exceptions[0].executable",
            "an absolute path",
        ),
        (
            responding(exceptions=[{"executable": "/bin/git", "destination": "x.org", "reason": "x"}]),
            "classes.a.responses.exceptions[0].destination",
            "an address or network",
        ),
        (
            responding(exceptions=[{"executable": "/bin/git", "destination": "10.0.0.1", "reason": " "}]),
            "classes.a.responses.exceptions[0].reason",
            "why, for whoever",
        ),
        (
            of_class(
                denied_executables={"paths": ["nc"]},
                responses={"exceptions": [{"executable": "/bin/nc", "destination": "10.0.0.1", "reason": "x"}]},
            ),
            "classes.a.responses.exceptions[0].executable",
            "a program that may run in this class",
        ),
        ("assign: [{class: default}]", "assign[0]", "labels, attributes, runtime or path beside the class"),
        ("assign: [{class: defualt, path: x}]", "assign[0].class", "one of the classes default"),
        ("assign: [{class: default, runtime: dokcer}]", "assign[0].runtime", "one of docker, containerd"),
        ("assign: [{class: default, path: 'a[b]'}]", "assign[0].path", "* and ? as the only wildcards"),
        ("assign: [{class: default, labels: {a: 'b[c]'}}]", "assign[0].labels.a", "* and ? as the only wildcards"),
        ("assign: [{class: default, labels: {a: 1}}]", "assign[0].labels.a", "text"),
        ("assign: [{class: default, path: x}, {class: default, path: x}]", "assign[1]", "an entry that no earlier"),
        ("examples: [{expect: allowed}]", "examples[0]", "one of connect, device, exec and detection"),
        ("examples: [{expect: maybe, exec: x}]", "examples[0].expect", "one of allowed, refused,"),
        ("examples: [{expect: allowed, exec: x, device: y}]", "examples[0]", "one of connect, device, exec and"),
        ("examples: [{expect: allowed, exec: x, class: b}]", "examples[0].class", "one of the classes default"),
    ],
)
def test_policies_that_contradict_themselves_or_name_what_is_not_there_are_refused(
    written: Any, text: str, key: str, expected: str
) -> None:
    [line] = refusal(written(text))
    assert f" {key}: expected {expected}" in line
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (of_class(granted_devices=["nvida"]), "nvidia"),
        (of_class(granted_devices=["Nvidia:0"]), "nvidia"),
        (of_class(denied_protocols=["sssh"]), "ssh"),
        (of_class(mod="enforce"), "mode"),
        (responding(high="quarantaine"), "quarantine"),
        ("sandboxes: [{path: docker/*, class: agnets}]\nclasses: {agents: {}}", "agents"),
        ("assign: [{class: agent, path: x}]\nclasses: {agents: {}}", "agents"),
    ],
)
def test_what_was_meant_is_said(written: Any, text: str, meant: str) -> None:
    [line] = refusal(written(text))
    assert line.endswith(f"; did you mean {meant}?")


def test_nothing_is_guessed_where_nothing_is_like_it(written: Any) -> None:
    [line] = refusal(written(of_class(granted_devices=["zzz"])))
    assert line.endswith("found 'zzz'")


def test_grants() -> None:
    assert parse_grant("kvm") == "kvm"
    assert parse_grant("nvidia:7") == SingleDevice("nvidia", 7)
    assert parse_grant("drm:128") == SingleDevice("drm", 128)
    assert parse_grant(f"nvidia:{UUID.upper()}") == SingleDevice("nvidia", uuid=UUID)
    assert str(parse_grant(f"nvidia:{UUID}")) == f"nvidia:{UUID}"
    granted = ("fuse", "nvidia:1", f"nvidia:{UUID}", "drm:128")
    assert granted_classes(granted) == ("fuse",)
    assert [str(each) for each in granted_singles(granted)] == ["nvidia:1", f"nvidia:{UUID}", "drm:128"]
    assert grants_gpu(granted) and not grants_gpu(("fuse", "kvm"))


@given(st.text(max_size=60))
def test_any_text_is_a_grant_or_none(text: str) -> None:
    grant = parse_grant(text)
    assert grant is None or parse_grant(str(grant)) == grant


@pytest.mark.parametrize(
    ("text", "network", "port"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", 0),
        ("10.1.2.3:443", "10.1.2.3", 443),
        ("10.0.0.0/8:65535", "10.0.0.0/8", 65535),
        ("2001:db8::/32", "2001:db8::/32", 0),
        ("::1", "::1", 0),
        ("[2001:db8::/32]:443", "2001:db8::/32", 443),
        ("[::1]", "::1", 0),
    ],
)
def test_destinations(text: str, network: str, port: int) -> None:
    assert parse_destination(text) == (prefix_of(network), port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.org",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0.1:",
        "[10.0.0.1",
        "1:2",
        "[::1]:x",
    ],
)
def test_what_is_no_destination(text: str) -> None:
    assert parse_destination(text) is None


def test_a_whole_policy(written: Any) -> None:
    settings = load(
        written(
            """
classes:
  agents:
    mode: enforce
    granted_devices: [kvm, "nvidia:0"]
    denied_executables: {paths: [/usr/bin/nc, socat], sha256: [%s], memfd: true, deleted: true, written_inside: true}
    shells_on_sockets: deny
    responses:
      critical: kill-sandbox
      grace_seconds: 5
      budget: {quarantines_per_minute: 3}
      rules:
      - {rule: Relay, action: quarantine}
      - {tag: attack.t1496, action: freeze}
      exceptions:
      - {executable: /usr/bin/git, destination: "10.0.0.0/8:22", reason: mirror}
assign:
- {labels: {team: "rl-*"}, attributes: {purpose: eval}, runtime: docker, path: "docker/*", class: agents}
examples:
- {class: agents, detection: {level: high}, expect: log}
"""
            % ("a" * 64)
        )
    )
    agents = settings.classes["agents"]
    assert agents.responses.rules[1] == ResponseRule("freeze", tag="attack.t1496")
    assert agents.denied_executables.paths == ("/usr/bin/nc", "socat")
    assert settings.assign[0].attributes == {"purpose": "eval"}
    assert settings.examples == (Example("log", "agents", detection=ExampleDetection("high")),)


# Whose file it is.


def test_a_file_that_others_may_write_is_refused(written: Any) -> None:
    path = written("instance: x\n")
    for mode in (0o620, 0o602, 0o666):
        os.chmod(path, mode)
        assert refusal(path) == [
            f"1: file: expected a file that only its owner may write, found mode {mode:04o}; run `chmod go-w` on it"
        ]
    os.chmod(path, 0o640)
    assert load(path).instance == "x"


def test_a_link_is_refused(written: Any, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(written("instance: x\n"))
    [line] = refusal(str(link))
    assert line.startswith("1: file: expected a file of its own, found a symbolic link")


def test_a_file_of_somebody_else_is_refused(written: Any) -> None:
    path = written("instance: x\n")
    os.chown(path, 12345, -1)
    [line] = refusal(path)
    assert line == "1: file: expected a file that root owns, found one of uid 12345; run `chown root` on it"


def test_a_fifo_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    [line] = refusal(str(tmp_path / "fifo"))
    assert line.endswith("found something that is no regular file")


def test_lines_of_keys(written: Any) -> None:
    path = written("instance: x\nclasses:\n  a:\n    granted_devices:\n    - kvm\n    - fuse\n")
    line = lines(path)
    granted = ("classes", "a", "granted_devices")
    assert [line(("instance",)), line(granted), line((*granted, 1)), line(("classes", "a", "mode"))] == [1, 4, 6, 3]
    assert line.written(granted) and not line.written(("classes", "a", "mode"))
    with pytest.raises(ConfigError, match="expected YAML"):
        lines(written("a: [\n"))
