"""Falco's rules as drafts: what matches before matches after, and what is lost is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import RuleError
from sensor.rules.document import RefusalError
from sensor.rules.engine import Engine
from sensor.rules.falco.drafts import Converted, convert
from sensor.rules.falco.grammar import And, Check, Known, Name, Not, Or, parse, simplified
from sensor.rules.ruleset import load
from sensor.rules.testing import activity

LIBRARY = """
- list: shells
  items: [bash, sh, "my shell"]
- list: clients
  items: [nc, shells]
- list: quoted
  items: ['"169.254.169.254"']
- macro: a_client
  condition: (proc.name in (clients))
- macro: of_admin
  condition: user.name=admin
"""


def made(tmp_path: Path, condition: str, **more: Any) -> Converted:
    file = tmp_path / "falco.yaml"
    rule = {"rule": "Some Rule", "desc": "It is done.", "condition": condition, "priority": "WARNING", **more}
    file.write_text(LIBRARY + yaml.safe_dump([rule]))
    return convert([file])


def matches(tmp_path: Path, found: Converted, category: str, **event: Any) -> bool:
    folder = tmp_path / "drafts"
    folder.mkdir(exist_ok=True)
    for draft in found.drafts:
        (folder / f"{draft.name}.yml").write_text(draft.text)
    return bool(Engine(load([folder], None)).match(activity(category, event)))


def test_the_grammar() -> None:
    tree = parse("a and (proc.name = x or not proc.args contains '-e \"q\"') and fd.sport in (22, 80,)")
    contains = Check("proc.args", "contains", ('-e "q"',))
    assert tree == And(
        (Name("a"), Or((Check("proc.name", "=", ("x",)), Not(contains))), Check("fd.sport", "in", ("22", "80")))
    )
    assert parse("evt.dir=< and proc.aname[2] exists") == And(
        (Check("evt.dir", "=", ("<",)), Check("proc.aname[2]", "exists", ()))
    )
    assert parse("notable and android") == And((Name("notable"), Name("android")))


@pytest.mark.parametrize("text", ["", "a and", "(a", "a b", "proc.name =", "proc.name in (a", "not", "a or or b"])
def test_what_is_not_the_language_is_refused(text: str) -> None:
    with pytest.raises(RefusalError, match="not understood"):
        parse(text)


def test_depth_and_length_are_bounded() -> None:
    for text in ("(" * 5000 + "a" + ")" * 5000, "not " * 9000 + "a", "a and " * 30_000 + "a"):
        with pytest.raises(RefusalError):
            parse(text)


@given(st.text(alphabet="abc.()'\" =<,\\notinandor", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        tree = parse(text)
    except RefusalError:
        return
    assert isinstance(tree, And | Or | Not | Check | Name)


def test_constants_go() -> None:
    name = Name("a")
    assert simplified(And((Known(True), name))) == name
    assert simplified(Or((Known(True), name))) == Known(True)
    assert simplified(Not(And((Known(False), name)))) == Known(True)
    assert simplified(Not(Not(name))) == name


@pytest.mark.parametrize(
    ("condition", "category", "event", "expected"),
    [
        ("spawned_process and container and a_client", "process_creation", {"Image": "/opt/nc"}, True),
        ("spawned_process and container and a_client", "process_creation", {"Image": "/usr/bin/my shell"}, True),
        ("spawned_process and container and a_client", "process_creation", {"Image": "/opt/ncx"}, False),
        (
            "spawned_process and a_client and not of_admin",
            "process_creation", {"Image": "/x/sh", "User": "admin"}, False,
        ),
        ("spawned_process and a_client and not of_admin", "process_creation", {"Image": "/x/sh", "User": "u"}, True),
        ("spawned_process and proc.pname != init", "process_creation", {"ParentImage": "/sbin/init"}, False),
        ("spawned_process and proc.pname != init", "process_creation", {"ParentImage": "/bin/sh"}, True),
        (
            "spawned_process and (proc.args contains '-e' or proc.cmdline glob 'nc * /bin/?sh')",
            "process_creation", {"CommandLine": "nc h /bin/zsh"}, True,
        ),
        ("evt.type=execve and proc.exepath regex '/tmp/.*'", "process_creation", {"Image": "/x/tmp/a"}, False),
        ("evt.type=execve and proc.exepath regex '/tmp/.*'", "process_creation", {"Image": "/tmp/a"}, True),
        ("evt.type=execve and user.uid >= 1000", "process_creation", {"Uid": 999}, False),
        ("evt.type=execve and user.uid >= 1000", "process_creation", {"Uid": 1000}, True),
        ("outbound and fd.sport in (4444, 22)", "network_connection", {"DestinationPort": 22, "Initiated": True}, True),
        (
            "outbound and fd.sip in (quoted)",
            "network_connection", {"DestinationIp": "169.254.169.254", "Initiated": True}, True,
        ),
        ("outbound and fd.sport = 22", "network_connection", {"DestinationPort": 22}, False),
        ("evt.type in (accept4) and fd.cport > 5", "network_connection", {"SourcePort": 22, "Initiated": True}, False),
        ("evt.type = accept and fd.cport > 5", "network_connection", {"SourcePort": 22}, True),
        ("outbound and not fd.snet in (10.0.0.0/8)", "network_connection", {"DestinationIp": "10.1.2.3"}, False),
        ("open_write and fd.name startswith /etc/", "file_event", {"TargetFilename": "/etc/passwd"}, True),
        ("open_write and fd.name startswith /etc/", "file_access", {"TargetFilename": "/etc/passwd"}, False),
        ("open_read and fd.directory = /root/.ssh", "file_access", {"TargetFilename": "/root/.ssh/id_rsa"}, True),
        ("open_read and fd.directory = /root/.ssh", "file_access", {"TargetFilename": "/root/.ssh/a/b"}, False),
        ("open_read and fd.filename in (shadow)", "file_access", {"TargetFilename": "/etc/shadow"}, True),
        ("evt.type in (ptrace, setns) and container", "system_call", {"SystemCall": "ptrace"}, True),
        ("evt.type in (ptrace, setns) and container", "system_call", {"SystemCall": "mount"}, False),
        ("evt.type in (unlink, rename) and container and proc.name=x", "file_delete", {"Image": "/x"}, True),
    ],
)  # fmt: skip
def test_what_matched_matches(
    tmp_path: Path, condition: str, category: str, event: dict[str, Any], expected: bool
) -> None:
    found = made(tmp_path, condition)
    assert found.refused == ()
    assert [draft.left_out for draft in found.drafts if draft.left_out] == []
    assert matches(tmp_path, found, category, **event) is expected


def test_a_draft_says_what_it_left_out_and_which_way_that_goes(tmp_path: Path) -> None:
    condition = (
        "spawned_process and proc.aname=sshd and (proc.name=nc or container.image.repository=x) and not proc.tty=0"
    )
    (draft,) = made(tmp_path, condition, exceptions=[{"name": "e"}]).drafts
    assert draft.left_out == (
        "proc.aname = sshd (the draft matches more without it)",
        "container.image.repository = x (the draft matches less without it)",
        "proc.tty = 0 (the draft matches more without it)",
        "exceptions",
    )
    assert "proc.aname = sshd" in " ".join(yaml.safe_load(draft.text)["description"].split())


def test_a_document_has_what_falco_says(tmp_path: Path) -> None:
    tags = ["container", "mitre_credential_access", "T1552.005", "mitre_nonsense"]
    (draft,) = made(tmp_path, "spawned_process and proc.name=nc", tags=tags).drafts
    document = yaml.safe_load(draft.text)
    assert (document["title"], document["level"]) == ("Some Rule", "medium")
    assert document["tags"] == ["attack.credential-access", "attack.t1552.005"]
    assert document["detection"] == {"part_1": {"Image|endswith": "/nc"}, "condition": "part_1"}
    assert draft.name == "some_rule_process_creation"


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("ka.verb = create", "names no type of event"),
        ("evt.type = procexit and proc.name = x", "nothing is left"),
        ("spawned_process and unheard_of", "macro 'unheard_of' is in no file"),
        ("spawned_process and (", "not understood"),
        ("spawned_process and proc.tty = 3", "nothing is left"),
    ],
)
def test_a_rule_of_which_nothing_comes_is_named(tmp_path: Path, condition: str, reason: str) -> None:
    found = made(tmp_path, condition)
    assert found.drafts == ()
    ((name, why),) = found.refused
    assert name == "Some Rule" and reason in why


def test_append_and_circles(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(
        """
- macro: m
  condition: proc.name=a
- macro: m
  condition: or proc.name=b
  append: true
- macro: round
  condition: round
- list: l
  items: [l, x]
- rule: one
  condition: evt.type=execve and m
- rule: one
  condition: and proc.args contains z
  override: {condition: append}
- {rule: two, condition: evt.type=execve and round}
- {rule: three, condition: evt.type=execve and proc.name in (l)}
"""
    )
    found = convert([file])
    assert found.refused == (("two", "macro 'round' is made of itself"),)
    one, three = (yaml.safe_load(draft.text)["detection"] for draft in found.drafts)
    assert one["part_1"] == {"CommandLine|contains": "z"}
    assert one["part_2"] == {"Image|endswith": ["/a", "/b"]}
    assert three["part_1"] == {"Image|endswith": "/x"}


@pytest.mark.parametrize("text", ["a: b", "[1, 2]", "- [", "x"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text)
    with pytest.raises(RuleError, match=r"f\.yaml:[12]: "):
        convert([file])
