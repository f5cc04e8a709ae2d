"""What must be there for a rule to match at all: the index is made of it.

A clause is a set of atoms of which at least one must hold. A rule becomes a candidate only if its
clauses hold, and only candidates are evaluated; a clause may say too little, never too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from sensor.rules import ir
from sensor.rules.literals import normal, required

AtomKind = Literal["exact", "name", "literal", "network", "number", "flag"]
Clause = frozenset["Atom"]

PLANES = 4  # clauses that the index looks up for a branch
MAX_BRANCHES = 12  # of a rule
GOOD = 250.0  # the likelihood up to which one more clause is worth its look-ups

# The field whose values are nearly all distinct: searched for each event, never remembered.
DIRECT = {"process_creation": "CommandLine"}

# Command lines of everyday work, roughly: a literal that is in them makes a poor clause.
_ORDINARY = normal(
    """ /bin/sh -c cd /home/user/project && exec bash -i -l -e -x sudo env PATH=/usr/local/bin:/usr/bin:/bin
 gcc -O2 -g -Wall -Werror -fPIC -I/usr/include/x86_64-linux-gnu -DNAME=1 -c src/main.c -o build/main.o -lm
 python3.11 -m pip install --user --upgrade -r requirements.txt --index-url https://host.org/simple
 node /usr/lib/node_modules/npm/bin/npm-cli.js run build -- --port 3000 --host 127.0.0.1 localhost:8080
 git clone --depth 1 https://github.com/org/repo.git git -c core.fsmonitor=false status --porcelain -uno
 make -j8 all cmake --build . --target install ld -shared -z relro /tmp/cc.o -L/usr/lib -rpath
 find . -type f -name *.py -exec grep -rn pattern {} ; ls -la cat file.txt | head -n 20 rm -rf /tmp/x cp -a
 curl -sS -L -o out.tar.gz http://localhost/ tar xzf -C /opt dpkg --configure -a apt-get install -y
 pytest -q -k test --workers=4 uvicorn server:app --config client.toml java -jar app.jar -u root -p 1 """
)


class Atom(Struct, frozen=True):
    """exact: the whole folded text; name: its last path component; literal: part of the normal text,
    which begins and ends with a space; network: CIDR."""

    attribute: str
    kind: AtomKind
    value: str | bytes | int | float | bool


def of_rule(expression: ir.Expression, category: str) -> list[tuple[Clause, ...]]:
    """For each of the rule's branches up to PLANES clauses that it implies, the best first; none: nothing
    is known of it. A rule is a candidate when all clauses of one of its branches hold."""
    direct = DIRECT.get(category)
    return [_worth(_clauses(branch, direct)) for branch in branches(ir.simplified(expression))]


def branches(item: ir.Expression) -> list[ir.Expression]:
    """Expressions of which one at least is true when `item` (simplified) is: its alternatives, as far as
    they are more than lists of values, each with what stands beside them."""
    waiting, done = [item], list[ir.Expression]()
    while waiting:
        current = waiting.pop()
        parts = current.items if isinstance(current, ir.And) else (current,)
        split = next((part for part in parts if isinstance(part, ir.Or) and _differ(part)), None)
        if split is None or len(waiting) + len(done) + len(split.items) > MAX_BRANCHES:
            done.append(current)
            continue
        beside = tuple(part for part in parts if part is not split)
        waiting += [ir.simplified(ir.And((part, *beside))) for part in reversed(split.items)]
    return done


def _differ(item: ir.Or) -> bool:
    return any(isinstance(part, (ir.And, ir.Regex)) for part in item.items)


def _worth(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    best = sorted(dict.fromkeys(clauses), key=_likelihood)[:PLANES]
    poor = bool(best) and _likelihood(best[0]) > 1.0
    return tuple(c for i, c in enumerate(best) if not i or (poor and _likelihood(c) <= GOOD))


def _clauses(item: ir.Expression, direct: str | None) -> list[Clause]:
    """`item` simplified: each clause is implied by it, all of them together."""
    if isinstance(item, ir.And):
        return [clause for part in item.items for clause in _clauses(part, direct)]
    if isinstance(item, ir.Or):
        parts = [part for part in item.items if part != ir.Constant(False)]
        return _of_alternatives([sorted(_clauses(part, direct), key=_likelihood) for part in parts])
    if isinstance(item, ir.Regex) and not item.numeric:
        found = [frozenset(Atom(item.attribute, "literal", text) for text in texts) for texts in required(item.pattern)]
        return [_least(clause) for clause in found if all(map(_telling, clause))]
    atoms = [] if isinstance(item, ir.Not) else _atoms(item, direct)
    return [frozenset(atoms)] if all(map(_telling, atoms)) and atoms else []


def _least(clause: Clause) -> Clause:
    """Without the literals that hold another one of the clause: the shorter says it already."""
    texts = {atom.attribute: [b.value for b in clause if b.attribute == atom.attribute] for atom in clause}
    return frozenset(
        atom
        for atom in clause
        if not isinstance(atom.value, bytes)
        or not any(
            isinstance(text, bytes) and text != atom.value and text in atom.value for text in texts[atom.attribute]
        )
    )


def _of_alternatives(parts: list[list[Clause]]) -> list[Clause]:
    """The best clauses of each alternative joined, the second best, and so on: any choice is implied."""
    if not parts or not all(parts):
        return []
    return [
        _least(frozenset(atom for part in parts for atom in part[min(rank, len(part) - 1)]))
        for rank in range(min(PLANES, max(map(len, parts))))
    ]


def _likelihood(clause: Clause) -> float:
    """A rough guess of how often the clause holds; only its order matters."""
    return sum(map(_weight, clause))


def _weight(atom: Atom) -> float:
    if atom.kind == "flag":
        return 5.0 if atom.value else 1000.0
    if isinstance(atom.value, bytes):
        return (400.0 if atom.value in _ORDINARY else 4.0) / len(atom.value) ** 2
    return 0.1


def _telling(atom: Atom) -> bool:
    return not isinstance(atom.value, bytes) or bool(atom.value.strip())


def _atoms(item: ir.Leaf, direct: str | None) -> list[Atom]:
    """Empty where the leaf implies nothing that can be looked up."""
    if isinstance(item, (ir.Text, ir.Pattern)):
        return [] if item.numeric else _of_text(item, direct)
    if isinstance(item, ir.Cidr):
        return [Atom(item.attribute, "network", item.network)]
    if isinstance(item, ir.Number) and item.compare == "eq":
        return [Atom(item.attribute, "number", item.value)]
    if isinstance(item, ir.Flag):
        return [Atom(item.attribute, "flag", item.value)]
    return [Atom(item.attribute, "exact", "")] if isinstance(item, ir.Empty) and item.attribute != direct else []


def _of_text(item: ir.Text | ir.Pattern, direct: str | None) -> list[Atom]:
    if isinstance(item, ir.Pattern):
        longest = max((part for part in item.parts if isinstance(part, str)), key=len, default="")
        return [Atom(item.attribute, "literal", normal(longest))]
    value = ir.fold(item.value)
    if item.attribute != direct:
        if item.shape == "exact":
            return [Atom(item.attribute, "exact", value)]
        if item.shape == "suffix" and value.rfind("/") == 0:
            return [Atom(item.attribute, "name", value[1:])]
    begin = " " if item.shape in {"exact", "prefix"} else ""
    end = " " if item.shape in {"exact", "suffix"} else ""
    return [Atom(item.attribute, "literal", normal(f"{begin}{value}{end}"))]
