"""The rules' compiler, a process of its own: `python -m sensor.rules.sigma --output FILE PATH...`

It takes pySigma and PyYAML with it when it ends, so that the core never holds them. It reports every
broken rule, one `file:line: reason` each; status 1 when there are any, unless --keep-going.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sensor.rules import compile as compiler
from sensor.rules import need, parse
from sensor.rules.collection import collected
from sensor.rules.document import Document, RefusalError, documents, read
from sensor.rules.filters import Filters, filter_of
from sensor.rules.ruleset import Placeholders, Rule, Ruleset, rule_files


class _Loader:
    def __init__(self, placeholders: Placeholders) -> None:
        self.placeholders = placeholders
        self.rules: list[Rule] = []
        self.parsed: list[parse.Parsed] = []
        self.predicates: list[str] = []
        self.order: dict[Path, int] = {}
        self.refused: list[tuple[int, str]] = []  # by file, in their order
        self.warnings: list[str] = []
        self.dormant: list[str] = []
        self.places: dict[str, str] = {}  # rule id to file:line
        self.waiting: list[tuple[Path, Document]] = []
        self.filters = Filters()

    def file(self, path: Path) -> None:
        """Filters take effect at once, rules wait until all filters are known."""
        self.order.setdefault(path, len(self.order))
        try:
            found = False
            for document in collected(documents(read(path))):
                found = True
                if "filter" in document.data:
                    self.attempt(path, document, self.filter)
                else:
                    self.waiting.append((path, document))
            if not found:
                raise RefusalError("holds no rule", 1)
        except RefusalError as error:
            self.refuse(path, error.line, error.reason)

    def compile(self) -> None:
        for path, document in self.waiting:
            self.attempt(path, document, self.document)
        self.warnings += self.filters.unused()

    def filter(self, path: Path, document: Document) -> None:
        self.filters.add(filter_of(document), f"{path}:{document.place.line}")

    def document(self, path: Path, document: Document) -> None:
        narrowing = self.filters.narrowing(document.data)
        self.add(path, document.place.line, parse.rule(document, self.placeholders, narrowing))

    def attempt(self, path: Path, document: Document, what: Callable[[Path, Document], None]) -> None:
        line = document.place.line
        try:
            what(path, document)
        except RefusalError as error:
            self.refuse(path, error.line or line, error.reason)
        except Exception as error:  # pySigma meets YAML that it did not expect: the other rules go on
            self.refuse(path, line, f"pySigma cannot read it: {type(error).__name__}: {error}")

    def add(self, path: Path, line: int, loaded: parse.Loaded) -> None:
        if loaded.id in self.places:
            raise RefusalError(f"id {loaded.id} is also that of {self.places[loaded.id]}", line)
        predicates = [self.predicate(path, line, one, i) for i, one in enumerate(loaded.parsed)]
        self.places[loaded.id] = f"{path}:{line}"
        self.warnings += (f"{path}:{at or line}: {text}" for at, text in loaded.warnings)
        if loaded.dormant:
            self.dormant.append(f"{path}:{line}: {' '.join(loaded.title.split())}: {loaded.dormant}")
        self.predicates += predicates
        self.parsed += loaded.parsed
        for parsed in loaded.parsed:
            values = {name: getattr(parsed, name) for name in parsed.__struct_fields__ if name != "expression"}
            self.rules.append(Rule(file=str(path), **values))

    def predicate(self, path: Path, line: int, parsed: parse.Parsed, beyond: int) -> str:
        predicate = compiler.predicate(len(self.rules) + beyond, parsed.expression, parsed.title)
        try:
            compile(predicate, str(path), "exec")
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise RefusalError(f"too large or too deep to compile: {error}", line) from error
        return predicate

    def refuse(self, path: Path, line: int, reason: str) -> None:
        self.refused.append((self.order[path], f"{path}:{line or 1}: {reason}"))

    def ruleset(self) -> Ruleset:
        categories = [parsed.category for parsed in self.parsed]
        needs = [need.of_rule(parsed.expression, parsed.category) for parsed in self.parsed]
        return Ruleset(
            rules=tuple(self.rules),
            source=compiler.module(self.predicates, categories, needs),
            refused=tuple(line for _, line in sorted(self.refused, key=lambda said: said[0])),
            unindexed=tuple(dict.fromkeys(r.id for r, n in zip(self.rules, needs, strict=True) if not all(n))),
            warnings=tuple(self.warnings),
            dormant=tuple(self.dormant),
        )


def build(paths: Sequence[Path], placeholders: Placeholders | None = None) -> Ruleset:
    """Every rule below `paths` (files or folders) that can be compiled, and what was refused. `placeholders`:
    name to the values of `|expand`."""
    loader = _Loader(placeholders or {})
    for path in rule_files(paths):
        loader.file(path)
    loader.compile()
    return loader.ruleset()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sensor.rules.sigma", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file for the compiled rules, made with mode 0600")
    parser.add_argument("--keep-going", action="store_true", help="status 0 although rules were refused")
    parser.add_argument("--placeholders", type=Path, help="JSON, name to values: what |expand puts in")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    gc.disable()  # a process of one task, most of whose objects live to its end
    placeholders = (
        msgspec.json.decode(options.placeholders.read_bytes(), type=dict[str, list[str]])
        if (options.placeholders)
        else {}
    )
    ruleset = build(options.paths, placeholders)
    descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(ruleset))
    for line in ruleset.refused:
        print(line, file=sys.stderr)
    return 1 if ruleset.refused and not options.keep_going else 0


if __name__ == "__main__":
    sys.exit(main())
