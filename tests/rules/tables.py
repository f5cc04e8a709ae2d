"""The generated tables of rules/: `python -m tests.rules.tables` writes them, test_catalogue keeps them true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sensor.rules import fields

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
        lines.append(
            f"| [{title}]({path.relative_to(rules)}) | {rule['level']} | {rule['status']} "
            f"| {rule['logsource']['category']} | {', '.join(techniques(rule['tags']))} "
            f"| {rule['response'].partition(':')[0]} |"
        )
    return "\n".join(lines)


def techniques(tags: list[str]) -> list[str]:
    """Ids of ATT&CK and ATLAS, as those write them."""
    attack = [tag[7:].upper() for tag in tags if tag.startswith("attack.t") and tag[8:9].isdigit()]
    return attack + [tag[6:].upper() for tag in tags if tag.startswith("atlas.")]


def main() -> None:
    rules = Path(__file__).resolve().parents[2] / "rules"
    for name, table in (("FIELDS.md", fields.markdown()), ("README.md", catalogue_table(rules))):
        path = rules / name
        path.write_text(regenerated(path.read_text(), table))


if __name__ == "__main__":
    main()
