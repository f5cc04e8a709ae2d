"""Synthetic rules are valid, differ from the shipped ones and from each other, and keep their shapes."""

from __future__ import annotations

from pathlib import Path

import yaml

from sensor.rules import sigma
from tests.bench import variants

RULES = Path(__file__).resolve().parents[2] / "rules"


def test_variants_are_valid_rules_of_the_same_shapes(tmp_path: Path) -> None:
    shipped = len(variants.write(RULES, tmp_path, 1)) and len(sigma.build([RULES]).rules)
    for path in tmp_path.iterdir():
        path.unlink()
    paths = variants.write(RULES, tmp_path, 2 * shipped + 20)
    built = sigma.build([tmp_path])
    assert built.refused == ()
    assert len(built.rules) == 2 * shipped + 20
    first, second, third = (yaml.safe_load(paths[at].read_text()) for at in (3, shipped + 3, 2 * shipped + 3))
    assert first["detection"]["condition"] == second["detection"]["condition"]
    assert first["detection"].keys() == second["detection"].keys() == third["detection"].keys()
    assert len({str(first["detection"]), str(second["detection"]), str(third["detection"])}) == 3


def test_the_same_seed_gives_the_same_rules(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        texts.append([path.read_text() for path in variants.write(RULES, tmp_path / name, 300)])
    assert texts[0] == texts[1]
