"""Loading: the child, the cache and what may be wrong with it, keep-going."""

from __future__ import annotations

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import RuleError
from sensor.rules import children, ir, ruleset
from sensor.rules.engine import Engine
from sensor.rules.files import rule_files
from sensor.rules.ruleset import CACHE_FILE, load
from sensor.rules.setting import Setting
from sensor.rules.testing import activity
from sensor.rules.unit import expression_of
from tests.rules.helpers import rule_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rules = tmp_path / "rules" / "sub"
    rules.mkdir(parents=True)
    (rules / "one.yml").write_text(rule_text("s:\n  Image: /x\ncondition: s"))
    (rules / "one.events.yaml").write_text("match: []\n")
    (rules / "one.events.yml").write_text("nonsense: [\n")
    (rules / "README.md").write_text("no rule")
    (rules.parent / "two.yaml").write_text(rule_text("s:\n  Image: /y\ncondition: s"))
    return rules.parent


@pytest.fixture
def compiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever the child runs."""
    calls: list[int] = []
    real = children.Children.compile

    def counted(self: children.Children, files: list[Path], using: Setting) -> None:
        if files:
            calls.append(len(files))
        real(self, files, using)

    monkeypatch.setattr(children.Children, "compile", counted)
    return calls


def break_one(folder: Path) -> Path:
    path = folder / "broken.yml"
    path.write_text(rule_text("s:\n  Image|nope: /x\ncondition: s"))
    return path


def test_rules_of_all_folders_are_loaded_and_examples_are_not_rules(folder: Path, tmp_path: Path) -> None:
    loaded = load([folder], tmp_path / "cache")
    assert [Path(rule.file).name for rule in loaded.rules] == ["one.yml", "two.yaml"]
    assert Engine(loaded).match(activity("process_creation", {"Image": "/y"})) == (loaded.rules[1],)


def test_the_cache_spares_the_child_until_something_changes(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    cache = tmp_path / "new" / "cache"
    first = load([folder], cache)
    assert load([folder], cache) == first
    assert len(compiles) == 1
    assert stat.S_IMODE((cache / CACHE_FILE).stat().st_mode) == 0o600
    assert os.listdir(cache) == [CACHE_FILE]
    (folder / "two.yaml").write_text(rule_text("s:\n  Image: /z\ncondition: s"))
    changed = load([folder], cache)
    assert len(compiles) == 2
    assert Engine(changed).match(activity("process_creation", {"Image": "/z"}))


def test_only_what_changed_is_compiled_again(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    load([folder], tmp_path)
    (folder / "two.yaml").write_text(rule_text("s:\n  Image: /z\ncondition: s"))
    (folder / "three.yml").write_text(rule_text("s:\n  Image: /3\ncondition: s"))
    engine = Engine(load([folder], tmp_path))
    assert compiles == [2, 2]
    assert [len(engine.match(activity("process_creation", {"Image": name}))) for name in ("/x", "/y", "/z", "/3")] == [
        1, 0, 1, 1,
    ]  # fmt: skip
    (folder / "three.yml").unlink()
    assert len(load([folder], tmp_path).rules) == 2
    assert compiles == [2, 2]
    assert load([folder], tmp_path) == load([folder], None)


def test_another_rule_set_between_costs_nothing(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "r.yml").write_text(rule_text("s:\n  Image: /o\ncondition: s"))
    for paths in (folder, tmp_path / "other", folder, tmp_path / "other"):
        load([paths], tmp_path)
    assert compiles == [2, 1]


def test_a_broken_file_is_read_again_once_it_is_mended(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    path = break_one(folder)
    assert len(load([folder], tmp_path, keep_going=True).refused) == 1
    path.write_text(rule_text("s:\n  Image: /mended\ncondition: s"))
    assert len(load([folder], tmp_path).rules) == 3
    assert compiles == [3, 1]


def test_an_id_is_taken_once_whichever_file_came_later(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    one = folder / "sub" / "one.yml"
    text = one.read_text()
    (folder / "zero.yml").write_text(text)
    found = load([folder], tmp_path, keep_going=True)
    assert compiles == [3]
    assert [Path(rule.file).name for rule in found.rules] == ["one.yml", "two.yaml"]
    rule = found.rules[0].id
    assert found.refused == (f"{folder / 'zero.yml'}:1: id {rule} is also that of {one}:1",)
    one.unlink()
    found = load([folder], tmp_path)
    assert compiles == [3]
    assert [Path(rule.file).name for rule in found.rules] == ["two.yaml", "zero.yml"]


def test_many_files_are_shared_out_among_children(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(children, "FILES_A_CHILD", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6, 7})
    for number in range(5):
        (folder / f"more{number}.yml").write_text(rule_text(f"s:\n  Image: /{number}\ncondition: s"))
    assert [Path(rule.file).stem for rule in load([folder], None).rules] == [
        "more0", "more1", "more2", "more3", "more4", "one", "two",
    ]  # fmt: skip


def test_a_child_started_for_nothing_ends_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiles: list[int]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def kept(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        started.append(real(*arguments, **named))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", kept)
    loaded = load([folder], tmp_path)
    load([folder], tmp_path)
    assert len(started) == 1
    assert not started[0].returncode
    monkeypatch.setattr(ruleset, "_newer", lambda files, _: files)
    assert load([folder], tmp_path) == loaded
    assert compiles == [2]
    assert len(started) == 2
    assert started[1].returncode == -signal.SIGKILL


def test_a_file_newer_than_the_cache_is_guessed_to_have_changed(folder: Path, tmp_path: Path) -> None:
    files = rule_files([folder])
    cache = tmp_path / CACHE_FILE
    assert ruleset._newer(files, cache) == ruleset._newer(files, None) == files
    load([folder], tmp_path)
    os.utime(cache, ns=(0, time.time_ns() + 10**9))
    assert ruleset._newer([*files, folder / "missing.yml"], cache) == []
    os.utime(cache, ns=(0, 0))
    assert ruleset._newer(files, cache) == files


def test_a_rule_can_be_read_and_its_tree_had_again(folder: Path, tmp_path: Path) -> None:
    loaded = load([folder], tmp_path)
    rule = loaded.rules[0].id
    source = loaded.source_of(rule)
    assert source is not None
    assert "casefold() == '/x'" in source.replace("Image == ", "casefold() == ")
    assert loaded.source_of("nobody") is None
    assert expression_of(loaded.compiled[0]) == ir.Text("Image", "exact", "/x", cased=False)


def test_values_of_placeholders_reach_the_child_and_others_are_not_served_from_the_cache(
    tmp_path: Path, compiles: list[int]
) -> None:
    (tmp_path / "r.yml").write_text(rule_text("s:\n  User|expand: '%admins%'\ncondition: s"))
    for name in ("ops", "root"):
        loaded = load([tmp_path / "r.yml"], tmp_path / "cache", placeholders={"admins": ("x", name)})
        assert Engine(loaded).match(activity("process_creation", {"User": name}))
        assert not Engine(loaded).match(activity("process_creation", {"User": "ann"}))
    assert len(compiles) == 2
    with pytest.raises(RuleError, match=r"r\.yml:9: placeholder %admins% has no value: give it one under rules"):
        load([tmp_path / "r.yml"], tmp_path / "cache")


@pytest.mark.parametrize("damage", ["bit", "short", "empty", "garbage", "mode", "link", "folder", "fifo", "type"])
def test_a_cache_that_cannot_be_trusted_is_not_used(
    folder: Path, tmp_path: Path, compiles: list[int], damage: str
) -> None:
    load([folder], tmp_path)
    cache = tmp_path / CACHE_FILE
    content = cache.read_bytes()
    evil = content.replace(b"/y", b"/e")
    assert evil != content
    if damage in {"bit", "short", "empty", "garbage"}:
        cache.write_bytes({"bit": evil, "short": content[:-9], "empty": b"", "garbage": b"\0" * 99}[damage])
    elif damage == "mode":
        cache.chmod(0o640)
    else:
        cache.unlink()
        if damage == "link":
            (tmp_path / "other").write_bytes(content)
            (tmp_path / "other").chmod(0o600)
            cache.symlink_to("other")
        elif damage == "folder":
            cache.mkdir()
        elif damage == "fifo":
            os.mkfifo(cache, 0o600)
        else:
            key, payload = content.split(b"\n")[0], b'{"rules": 5}'
            cache.write_bytes(b"\n".join((key, hashlib.sha256(payload).hexdigest().encode(), payload)))
            cache.chmod(0o600)
    loaded = load([folder], tmp_path)
    assert len(compiles) == 2
    assert Engine(loaded).match(activity("process_creation", {"Image": "/y"}))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_a_cache_of_another_user_is_not_used(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    load([folder], tmp_path)
    os.chown(tmp_path / CACHE_FILE, 65534, 65534)
    load([folder], tmp_path)
    assert len(compiles) == 2
    assert (tmp_path / CACHE_FILE).stat().st_uid == 0


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    assert len(load([folder], tmp_path / "file").rules) == 2
    assert "cannot keep compiled rules" in caplog.text
    assert len(load([folder], None).rules) == 2


def test_broken_rules_stop_the_load_and_each_is_named(folder: Path, tmp_path: Path, compiles: list[int]) -> None:
    path = break_one(folder)
    (folder / "worse.yml").write_text("a: [\n")
    for _ in range(2):
        with pytest.raises(RuleError) as caught:
            load([folder], tmp_path)
        first, second = str(caught.value).split("\n")
        assert first == f"{path}:9: Unknown modifier 'nope'"
        assert second.startswith(f"{folder / 'worse.yml'}:2: YAML: ")
    assert len(compiles) == 1


def test_keep_going_loads_the_others_and_lists_the_broken(folder: Path, tmp_path: Path) -> None:
    path = break_one(folder)
    loaded = load([folder], tmp_path, keep_going=True)
    assert len(loaded.rules) == 2
    assert loaded.refused == (f"{path}:9: Unknown modifier 'nope'",)
    assert load([folder], tmp_path, keep_going=True) == loaded


def test_no_rules_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="no rule files there"):
        load([tmp_path], None)
    with pytest.raises(RuleError, match=r"none\.yml:1: cannot be read: No such file"):
        load([tmp_path / "none.yml"], None)


def test_a_child_that_dies_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RuleError, match="compiler failed: it ended with status 1"):
        load([folder], None)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RuleError, match=r"compiler failed: .*No such file"):
        load([folder], None)


@pytest.mark.parametrize(("flags", "status"), [([], 1), (["--keep-going"], 0)])
def test_the_command_itself(folder: Path, tmp_path: Path, flags: list[str], status: int) -> None:
    path = break_one(folder)
    command = [sys.executable, "-m", "sensor.rules.sigma", *flags, "--output", str(tmp_path / "out"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr == f"{path}:9: Unknown modifier 'nope'\n"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_the_core_never_imports_what_the_child_needs(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from sensor.rules.engine import Engine; from sensor.rules.ruleset import load\n"
        f"Engine(load([{str(folder)!r}], {str(tmp_path)!r}))\n"
        "heavy = {'sigma', 'yaml', 'pyparsing', 'jinja2', 'requests', 'asyncio', 'click', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
