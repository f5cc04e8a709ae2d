"""What a rule is lowered in: one category, the names it has, and a note of all that was not found."""

from __future__ import annotations

from sensor.rules import taxonomy
from sensor.rules.setting import Placeholders
from sensor.rules.taxonomy import Meaning


class Scope:
    """`absent`: fields that the category lacks, with the line that names each. `unmet`: of fields that have the same
    values in every event, those of which the rule wants others, with one that it wants."""

    def __init__(self, category: str, placeholders: Placeholders) -> None:
        self.category = category
        self.placeholders = placeholders
        self.absent: dict[str, int] = {}
        self.unmet: dict[str, str] = {}
        self._met: set[str] = set()
        self.line = 0  # of the item that is being lowered

    def look(self, name: str) -> Meaning | None:
        found = taxonomy.look(self.category, name)
        if found is None:
            self.absent.setdefault(name, self.line)
        return found

    def constant(self, name: str, value: str, met: bool) -> None:
        """Note whether a field that never changes has a value that the rule wants."""
        if met:
            self._met.add(name)
            self.unmet.pop(name, None)
        elif name not in self._met:
            self.unmet.setdefault(name, value)
