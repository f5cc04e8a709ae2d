"""The generated tables of rules/: `python -m tests.rules.tables` writes them, test_catalogue keeps them true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sensor.rules import fields, taxonomy

TOP = Path(__file__).resolve().parents[2]
COVERAGE = TOP / "tests/data/coverage.yaml"
BEGIN = "<!-- generated: python -m tests.rules.tables -->"
END = "<!-- end of what is generated -->"


def regenerated(text: str, table: str) -> str:
    """`text` with `table` between its markers."""
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def catalogue_table(rules: Path) -> str:
    lines = ["| rule | level | status | category | techniques | response |", "|---|---|---|---|---|---|"]
    for path in sorted(rules.rglob("*.yml")):
        rule: dict[str, Any] = yaml.safe_load(path.read_text())
        title = rule["title"].replace("|", "\\|")
        category = "correlation" if "correlation" in rule else rule["logsource"]["category"]
        lines.append(
            f"| [{title}]({path.relative_to(rules)}) | {rule['level']} | {rule['status']} "
            f"| {category} | {', '.join(techniques(rule['tags']))} "
            f"| {rule['response'].partition(':')[0]} |"
        )
    return "\n".join(lines)


def fields_tables() -> str:
    """Our own names, then the foreign ones that stand for them."""
    return f"{fields.markdown()}\n{taxonomy.markdown()}"


def techniques(tags: list[str]) -> list[str]:
    """Ids of ATT&CK and ATLAS, as those write them."""
    attack = [tag[7:].upper() for tag in tags if tag.startswith("attack.t") and tag[8:9].isdigit()]
    return attack + [tag[6:].upper() for tag in tags if tag.startswith("atlas.")]


def coverage_table(rules: Path) -> str:
    """What stands for the rules of other sensors: `tests/data/coverage.yaml`, with links."""
    data: dict[str, dict[str, list[str] | str]] = yaml.safe_load(COVERAGE.read_text())
    lines: list[str] = []
    for source, theirs in data.items():
        answered = sum(isinstance(ours, list) for ours in theirs.values())
        lines += [f"### {source}: {answered} of {len(theirs)}", "", "| theirs | ours, or why none |", "|---|---|"]
        for name, ours in theirs.items():
            links = ", ".join(f"[{rule}]({rule}.yml)" for rule in ours) if isinstance(ours, list) else ours
            lines.append(f"| {name} | {links} |")
        lines.append("")
    return "\n".join(lines)


def tables(rules: Path) -> dict[str, str]:
    """File in rules/ → its generated part."""
    return {
        "FIELDS.md": fields_tables(),
        "README.md": catalogue_table(rules),
        "COVERAGE.md": coverage_table(rules),
    }


def main() -> None:
    rules = TOP / "rules"
    for name, table in tables(rules).items():
        path = rules / name
        path.write_text(regenerated(path.read_text(), table))


if __name__ == "__main__":
    main()
