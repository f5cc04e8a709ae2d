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
from sensor.rules import ir, need, parse, pushdown, unit
from sensor.rules.document import Document, RefusalError, documents, read
from sensor.rules.ruleset import Ruleset, content_of, joined, rule_files
from sensor.rules.unit import Compiled, Refusal, Rule, Unit, digest


class _File:
    """One file on its way to a unit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rules: list[Compiled] = []
        self.refused: list[Refusal] = []

    def unit(self) -> Unit:
        content = ""
        try:
            found = False
            text = read(self.path)
            content = digest(text.encode())
            for document in documents(text):
                found = True
                self.document(document)
            if not found:
                raise RefusalError("holds no rule", 1)
        except RefusalError as error:
            self.refuse(error.line, error.reason)
        return Unit(str(self.path), content or content_of(self.path), tuple(self.rules), tuple(self.refused))

    def document(self, document: Document) -> None:
        line = document.place.line
        try:
            self.rules.append(compiled(parse.rule(document), str(self.path), line))
        except RefusalError as error:
            self.refuse(error.line or line, error.reason)
        except Exception as error:  # pySigma meets YAML that it did not expect: the other rules go on
            self.refuse(line, f"pySigma cannot read it: {type(error).__name__}: {error}")

    def refuse(self, line: int, reason: str) -> None:
        self.refused.append(Refusal(line or 1, reason))


def compiled(parsed: parse.Parsed, file: str, line: int) -> Compiled:
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
        source=source,
        code=code,
        needs=needs,
        expression=msgspec.msgpack.encode(expression),
        wants=pushdown.of_rule(parsed.category, expression),
        indexed=bool(branches) and all(branch.clauses for branch in branches),
        digest=digest(told, source.encode("utf-8", "surrogatepass"), needs),
    )


def build(paths: Sequence[Path]) -> Ruleset:
    """Every rule below `paths` (files or folders) that can be compiled, and what was refused."""
    return joined(_File(path).unit() for path in rule_files(paths))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sensor.rules.sigma", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="file for the compiled rules, made with mode 0600")
    parser.add_argument("--keep-going", action="store_true", help="status 0 although rules were refused")
    parser.add_argument("--quiet", action="store_true", help="do not name the refused rules: they are in the output")
    parser.add_argument("--files-from", type=Path, metavar="FILE", help="more paths, each ended by NUL or the end")
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    gc.disable()  # a process of one task, most of whose objects live to its end
    listed = options.files_from.read_bytes().split(b"\0") if options.files_from else []
    paths = [*options.paths, *(Path(os.fsdecode(name)) for name in listed if name)]
    units = [_File(path).unit() for path in rule_files(paths)]
    descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.msgpack.encode({one.file: msgspec.msgpack.encode(one) for one in units}))
    refused = joined(units).refused
    for line in () if options.quiet else refused:
        print(line, file=sys.stderr)
    return 1 if refused and not options.keep_going else 0


if __name__ == "__main__":
    sys.exit(main())
