"""The generated tables of rules/: `python -m tests.rules.tables` writes them, test_catalogue keeps them true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from sensor.rules import fields, taxonomy

BEGIN = "<!-- generated: python -m tests.rules.tables -->"
END = "<!-- end of what is generated -->"


def regenerated(text: str, table: str) -> str:
    """`text` with `table` between its markers."""
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n\n{table.strip()}\n\n{END}{after}"


def catalogue_table(rules: Path) -> str:
    lines = ["| rule | title | level | category | ATT&CK | ATLAS |", "|---|---|---|---|---|---|"]
    for path in sorted(rules.rglob("*.yml")):
        rule: dict[str, Any] = yaml.safe_load(path.read_text())
        tags = rule["tags"]
        techniques = ", ".join(tag[7:].upper() for tag in tags if tag.startswith("attack.t") and tag[8:9].isdigit())
        atlas = ", ".join(tag[6:].upper() for tag in tags if tag.startswith("atlas."))
        category = "correlation" if "correlation" in rule else rule["logsource"]["category"]
        name = path.relative_to(rules).with_suffix("")
        title = rule["title"].replace("|", "\\|")
        lines.append(
            f"| [{name}]({path.relative_to(rules)}) | {title} | {rule['level']} | {category} | {techniques} | {atlas} |"
        )
    return "\n".join(lines)


def fields_tables() -> str:
    """Our own names, then the foreign ones that stand for them."""
    return f"{fields.markdown()}\n{taxonomy.markdown()}"


def main() -> None:
    rules = Path(__file__).resolve().parents[2] / "rules"
    for name, table in (("FIELDS.md", fields_tables()), ("CATALOGUE.md", catalogue_table(rules))):
        path = rules / name
        path.write_text(regenerated(path.read_text(), table))


if __name__ == "__main__":
    main()
