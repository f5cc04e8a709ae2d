"""The rules' compiler, a process of its own: `python -m sensor.rules.sigma --output FILE PATH...`

It takes pySigma and PyYAML with it when it ends, so that the core never holds them. It reports every
broken rule, one `file:line: reason` each; status 1 when there are any, unless --keep-going.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from sensor.rules import calls, files, ir, need, parse, places, pushdown, setting, unit
from sensor.rules import compile as compiler
from sensor.rules.collection import collected
from sensor.rules.correlation.draft import Draft
from sensor.rules.document import Document, RefusalError, documents, read
from sensor.rules.files import filter_files, rule_files
from sensor.rules.filters import Filters, filter_of
from sensor.rules.refusal import Refusal
from sensor.rules.setting import Placeholders, Setting
from sensor.rules.unit import Compiled, Dormant, Rule, Unit, digest

if TYPE_CHECKING:
    from sensor.rules.ruleset import Ruleset


class _File:
    """One file on its way to a unit."""

    def __init__(self, path: Path, filters: Filters, placeholders: Placeholders) -> None:
        self.path = path
        self.known = filters
        self.placeholders = placeholders
        self.rules: list[Compiled] = []
        self.refused: list[Refusal] = []
        self.warnings: list[Refusal] = []
        self.dormant: list[Dormant] = []
        self.filters: list[int] = []
        self.narrowed: dict[str, None] = {}
        self.drafts: list[Draft] = []

    def unit(self) -> Unit:
        content = ""
        try:
            found = False
            text = read(self.path)
            content = digest(text.encode())
            for document in collected(documents(text)):
                found = True
                self.attempt(document, self.kind(document))
            if not found:
                raise RefusalError("holds no rule", 1)
        except RefusalError as error:
            self.refuse(error.line, error.reason)
        return Unit(
            file=str(self.path),
            content=content or files.seen(self.path).content,
            rules=tuple(self.rules),
            refused=tuple(self.refused),
            warnings=tuple(self.warnings),
            dormant=tuple(self.dormant),
            filters=tuple(self.filters),
            narrowed=tuple(self.narrowed),
            drafts=tuple(self.drafts),
        )

    def attempt(self, document: Document, what: Callable[[Document], None]) -> None:
        line = document.place.line
        try:
            what(document)
        except RefusalError as error:
            self.refuse(error.line or line, error.reason)
        except Exception as error:  # pySigma meets YAML that it did not expect: the other rules go on
            self.refuse(line, f"pySigma cannot read it: {type(error).__name__}: {error}")

    def kind(self, document: Document) -> Callable[[Document], None]:
        if "filter" in document.data:
            return self.filter
        return self.correlation if "correlation" in document.data else self.rule

    def correlation(self, document: Document) -> None:
        from sensor.rules.correlation.parse import draft  # noqa: PLC0415  # few files have one, and it is 10 ms

        self.drafts.append(draft(self.path, document))

    def filter(self, document: Document) -> None:
        """What it narrows was told to every file before; here only what is wrong with it is found."""
        filter_of(document)
        self.filters.append(document.place.line)

    def rule(self, document: Document) -> None:
        line = document.place.line
        narrowing, taken = self.known.narrowing(document.data)
        loaded = parse.rule(document, self.placeholders, narrowing)
        name = document.data.get("name")
        named = (name, document.place.at("name").line) if isinstance(name, str) else ("", line)
        rules = [compiled(parsed, str(self.path), line, *named) for parsed in loaded.parsed]
        self.rules += rules
        self.narrowed.update(dict.fromkeys(taken))
        self.warnings += (Refusal(at or line, text) for at, text in loaded.warnings)
        if loaded.dormant:
            self.dormant.append(
                Dormant(loaded.id, line, named[0], f"{' '.join(loaded.title.split())}: {loaded.dormant}")
            )

    def refuse(self, line: int, reason: str) -> None:
        self.refused.append(Refusal(line or 1, reason))


def filters_of(paths: Iterable[Path]) -> Filters:
    """Those that are right: what is wrong with one is said of its own file."""
    filters = Filters()
    for path in paths:
        try:
            for document in collected(documents(read(path))):
                if "filter" in document.data:
                    _take(filters, document, path)
        except RefusalError:
            continue
    return filters


def _take(filters: Filters, document: Document, path: Path) -> None:
    with contextlib.suppress(Exception):  # also what pySigma does not expect
        filters.add(filter_of(document), f"{path}:{document.place.line}")


def compiled(parsed: parse.Parsed, file: str, line: int, name: str, name_line: int) -> Compiled:
    """Raises RefusalError."""
    expression = ir.simplified(parsed.expression)
    branches = need.split(expression, parsed.category)
    try:
        source = compiler.source(parsed.title, expression, [branch.expression for branch in branches])
        code = compiler.code(source, f"<rule {parsed.id}>")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise RefusalError(f"too large or too deep to compile: {error}", line) from error
    values = {name: getattr(parsed, name) for name in parsed.__struct_fields__ if name != "expression"}
    rule, needs = Rule(file=file, **values), unit.encode_needs(branches)
    told = msgspec.msgpack.encode(msgspec.structs.replace(rule, file=""))
    return Compiled(
        rule=rule,
        line=line,
        name=name,
        name_line=name_line,
        source=source,
        code=code,
        needs=needs,
        expression=msgspec.msgpack.encode(expression),
        wants=pushdown.of_rule(parsed.category, expression),
        calls=calls.of_rule(parsed.category, expression),
        cover=places.of_rule(parsed.category, expression),
        indexed=bool(branches) and all(branch.clauses for branch in branches),
        digest=digest(told, source.encode("utf-8", "surrogatepass"), needs),
    )


def build(paths: Sequence[Path], placeholders: Placeholders | None = None) -> Ruleset:
    """Every rule below `paths` (files or folders) that can be compiled, and what was refused. `placeholders`:
    name to the values of `|expand`."""
    from sensor.rules.ruleset import joined  # noqa: PLC0415  # not for the core's children: it joins them itself

    found = rule_files(paths)
    return joined(units_of(found, setting.of(placeholders, filter_files(found))))


def units_of(paths: Iterable[Path], using: Setting) -> list[Unit]:
    filters = filters_of(map(Path, using.filters))
    return [_File(path, filters, using.placeholders).unit() for path in paths]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sensor.rules.sigma", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file for the compiled rules, made with mode 0600")
    parser.add_argument("--keep-going", action="store_true", help="status 0 although rules were refused")
    parser.add_argument("--quiet", action="store_true", help="do not name the refused rules: they are in the output")
    parser.add_argument("--files-from", type=Path, metavar="FILE", help="more paths, each ended by NUL or the end")
    parser.add_argument("--setting", type=Path, metavar="FILE", help="JSON: placeholders, and files that hold filters")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    listed = options.files_from.read_bytes().split(b"\0") if options.files_from else []
    found = rule_files([*options.paths, *(Path(os.fsdecode(name)) for name in listed if name)])
    using = setting.decode(options.setting.read_bytes()) if options.setting else setting.of(None, filter_files(found))
    units = units_of(found, using)
    descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode({one.file: msgspec.msgpack.encode(one) for one in units}))
    if options.quiet and options.keep_going:
        return 0
    from sensor.rules.ruleset import joined  # noqa: PLC0415  # as above

    refused = joined(units).refused
    for line in () if options.quiet else refused:
        print(line, file=sys.stderr)
    return 1 if refused and not options.keep_going else 0


if __name__ == "__main__":
    sys.exit(main())
