"""Which rule files there are, and what is seen in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sensor.rules import files
from sensor.rules.files import MAX_FILE_BYTES, rule_files, seen
from sensor.rules.unit import digest


def test_files_below_folders_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    for name in ("b/a.yml", "b-c/a.yml", "b.yml", "z.yaml", "B/x.yml", "b/a.events.yml", "b/n.txt", ".yml", ".h.yml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "folder.yml").mkdir()
    (tmp_path / "linked.yml").symlink_to(tmp_path / "z.yaml")
    (tmp_path / "dangling.yml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "again").symlink_to(tmp_path / "b", target_is_directory=True)
    found = rule_files([tmp_path])
    assert found == sorted(found)
    assert {str(path.relative_to(tmp_path)) for path in found} == {
        "b/a.yml", "b-c/a.yml", "b.yml", "z.yaml", "B/x.yml", ".h.yml", "linked.yml",
    }  # fmt: skip


def test_a_file_named_itself_is_one_whatever_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "a.yml").touch()
    named = [tmp_path / "missing.txt", tmp_path, tmp_path / "a.yml"]
    assert rule_files(named) == [tmp_path / "missing.txt", tmp_path / "a.yml"]


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("filter:\n  rules: any\n", True),
        ("title: x\nfilter :\n", True),
        ("title: x\n---\nfilter:", True),
        ("detection:\n  filter:\n", False),
        ("filters:\n", False),
        ("title: filter: x\n", False),
        ("", False),
    ],
)
def test_filters_are_seen_where_they_are(tmp_path: Path, text: str, filters: bool) -> None:
    path = tmp_path / "r.yml"
    path.write_text(text)
    assert seen(path) == files.Seen(digest(text.encode()), filters)


@pytest.mark.parametrize("size", [(1 << 14) - 1, 1 << 14, (1 << 14) + 1, MAX_FILE_BYTES, MAX_FILE_BYTES + 1])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "r.yml").write_bytes(content + b"beyond" * (size > MAX_FILE_BYTES))
    assert files.read(tmp_path / "r.yml") == content


def test_what_cannot_be_read_has_no_content(tmp_path: Path) -> None:
    assert seen(tmp_path / "none.yml") == files.Seen("unreadable", filters=False)
