"""The rules' compiler, a process of its own: `python -m sensor.rules.sigma --output FILE PATH...`

It takes pySigma and PyYAML with it when it ends, so that the core never holds them. It reports every
broken rule, one `file:line: reason` each; status 1 when there are any, unless --keep-going.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from sensor.rules import compile as compiler
from sensor.rules import need, parse, places
from sensor.rules.document import Document, RefusalError, documents, read
from sensor.rules.ruleset import Rule, Ruleset, rule_files


class _Loader:
    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.parsed: list[parse.Parsed] = []
        self.predicates: list[str] = []
        self.refused: list[str] = []
        self.places: dict[str, str] = {}  # rule id to file:line

    def file(self, path: Path) -> None:
        try:
            found = False
            for document in documents(read(path)):
                found = True
                self.document(path, document)
            if not found:
                raise RefusalError("holds no rule", 1)
        except RefusalError as error:
            self.refuse(path, error.line, error.reason)

    def document(self, path: Path, document: Document) -> None:
        line = document.place.line
        try:
            self.add(path, line, parse.rule(document))
        except RefusalError as error:
            self.refuse(path, error.line or line, error.reason)
        except Exception as error:  # pySigma meets YAML that it did not expect: the other rules go on
            self.refuse(path, line, f"pySigma cannot read it: {type(error).__name__}: {error}")

    def add(self, path: Path, line: int, parsed: parse.Parsed) -> None:
        if parsed.id in self.places:
            raise RefusalError(f"id {parsed.id} is also that of {self.places[parsed.id]}", line)
        predicate = compiler.predicate(len(self.rules), parsed.expression, parsed.title)
        try:
            compile(predicate, str(path), "exec")
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise RefusalError(f"too large or too deep to compile: {error}", line) from error
        self.places[parsed.id] = f"{path}:{line}"
        self.predicates.append(predicate)
        self.parsed.append(parsed)
        values = {name: getattr(parsed, name) for name in parsed.__struct_fields__ if name != "expression"}
        self.rules.append(Rule(file=str(path), **values))

    def refuse(self, path: Path, line: int, reason: str) -> None:
        self.refused.append(f"{path}:{line or 1}: {reason}")

    def ruleset(self) -> Ruleset:
        categories = [parsed.category for parsed in self.parsed]
        needs = [need.of_rule(parsed.expression, parsed.category) for parsed in self.parsed]
        watched, beyond = places.of_rules((p.id, p.category, p.expression) for p in self.parsed)
        return Ruleset(
            rules=tuple(self.rules),
            source=compiler.module(self.predicates, categories, needs),
            refused=tuple(self.refused),
            places=watched,
            beyond=beyond,
            unindexed=tuple(r.id for r, n in zip(self.rules, needs, strict=True) if not all(n)),
        )


def build(paths: Sequence[Path]) -> Ruleset:
    """Every rule below `paths` (files or folders) that can be compiled, and what was refused."""
    loader = _Loader()
    for path in rule_files(paths):
        loader.file(path)
    return loader.ruleset()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sensor.rules.sigma", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file for the compiled rules, made with mode 0600")
    parser.add_argument("--keep-going", action="store_true", help="status 0 although rules were refused")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    gc.disable()  # a process of one task, most of whose objects live to its end
    ruleset = build(options.paths)
    descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(ruleset))
    for line in ruleset.refused:
        print(line, file=sys.stderr)
    return 1 if ruleset.refused and not options.keep_going else 0


if __name__ == "__main__":
    sys.exit(main())
