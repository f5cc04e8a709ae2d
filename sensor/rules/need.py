"""What must be there for a rule to match at all: the index is made of it.

A clause is a set of atoms of which at least one must hold. A rule becomes a candidate only if its
clauses hold, and only candidates are evaluated; a clause may say too little, never too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from msgspec import Struct

from sensor.events.derived import DERIVED
from sensor.rules import ir, ordinary
from sensor.rules.literals import likelihood, normal, required

AtomKind = Literal["exact", "name", "literal", "network", "number", "flag"]
Clause = frozenset["Atom"]

PLANES = 4  # clauses that the index looks up for a branch
MAX_BRANCHES = 12  # of a rule
MOST_COMPARED = 512  # literals of a clause
RARE = 0.004  # the likelihood below which a first clause needs no second
FREQUENT = 0.7  # the likelihood from which a further clause is not worth its look-ups
FREQUENT_TEXT = 0.3  # the same of one that a text is searched for

# The field whose values are nearly all distinct: searched for each event, never remembered.
DIRECT = {"process_creation": "CommandLine"}

# Numbers of which a sandbox's work has few: remembered together with its programs.
FEW = frozenset({"Uid", "EffectiveUid"})

# Derived text (events/derived.py) is never looked up itself: computing it for each event would be the dear part.
_OF_ARGV = frozenset(name for name in DERIVED if name == "ArgvText" or name.startswith("Argument"))
_NAME_OF = {"ImageName": "Image", "ParentImageName": "ParentImage"}

# How often a flag is true, by ordinary work; any other flag is rarely so. An attempt is nearly always the
# sandbox's own, and most go to loopback or to a neighbour.
_TRUE = {
    "Initiated": 0.99,
    "DestinationIsLoopback": 0.5,
    "DestinationIsPrivate": 0.6,
    "Granted": 0.7,
    "GpuGranted": 0.5,
    "FromSandbox": 0.5,
    "Certain": 0.9,
    "Answered": 0.5,
    "Resolver": 0.9,
    "SourceIsLoopback": 0.5,
}
_TRUE_SELDOM = 0.05

# How often one value of a field is met, where the field has only few or some that are met all the time.
_VALUE = {
    "Protocol": 0.5,
    "Verdict": 0.2,
    "PriorVerdict": 0.5,
    "DeviceClass": 0.1,
    "DeviceType": 0.5,
    "DeviceMajor": 0.05,
    "Access": 0.5,
    "DestinationPort": 0.002,
    "ApplicationProtocol": 0.3,
    "ProtocolRole": 0.5,
    "MessageKind": 0.3,
    "Phase": 0.4,
    "Method": 0.2,
    "QueryType": 0.4,
    "Behavior": 0.2,
    "Inner": 0.3,
    "StandardInput": 0.05,
    "StandardOutput": 0.05,
    "StandardError": 0.05,
    "DestinationHostname": 0.01,
    "Uid": 0.5,
    "EffectiveUid": 0.5,
}
_VALUE_SELDOM = 0.001

_PROGRAMS = frozenset({"Image", "ImageInvoked", "ParentImage"})
_PROGRAM = {name: ordinary.PROGRAMS.count(name) / len(ordinary.PROGRAMS) for name in ordinary.PROGRAMS}


class Atom(Struct, frozen=True):
    """exact: the whole folded text; name: its last path component; literal: part of the normal text,
    which begins and ends with a space; network: CIDR."""

    attribute: str
    kind: AtomKind
    value: str | bytes | int | float | bool


class Branch(Struct, frozen=True):
    """One of a rule's alternatives. It is worth evaluating when all `clauses` hold; none: nothing is known of it."""

    expression: ir.Expression
    clauses: tuple[Clause, ...]


def split(expression: ir.Expression, category: str) -> list[Branch]:
    """The rule, simplified, is true when one of its branches is, and only then. Of each up to PLANES clauses, the
    best first."""
    direct = DIRECT.get(category)
    alike: dict[tuple[Clause, ...], list[ir.Expression]] = {}
    for branch in branches(expression, direct):
        alike.setdefault(_worth(_clauses(branch, direct)), []).append(branch)
    return [Branch(same[0] if len(same) == 1 else ir.Or(tuple(same)), clauses) for clauses, same in alike.items()]


def of_rule(expression: ir.Expression, category: str) -> list[tuple[Clause, ...]]:
    """The clauses of each branch alone."""
    return [branch.clauses for branch in split(ir.simplified(expression), category)]


def branches(item: ir.Expression, direct: str | None) -> list[ir.Expression]:
    """Expressions of which one at least is true when `item` (simplified) is: its alternatives, as far as
    they are more than lists of values, each with what stands beside them."""
    waiting, done = [item], list[ir.Expression]()
    while waiting:
        current = waiting.pop()
        parts = current.items if isinstance(current, ir.And) else (current,)
        split = next((part for part in parts if isinstance(part, ir.Or) and _differ(part, direct)), None)
        if split is None or len(waiting) + len(done) + len(split.items) > MAX_BRANCHES:
            done.append(current)
            continue
        beside = tuple(part for part in parts if part is not split)
        waiting += [ir.both((part, *beside)) for part in reversed(split.items)]
    return done


def _differ(item: ir.Or, direct: str | None) -> bool:
    """Worth a branch each: more than values, and something is known of every one."""
    return any(isinstance(part, (ir.And, ir.Regex)) for part in item.items) and all(
        _clauses(part, direct) for part in item.items
    )


def _worth(clauses: Sequence[Clause]) -> tuple[Clause, ...]:
    best = list[Clause]()
    for clause in sorted(dict.fromkeys(clauses), key=_likelihood):
        if not any(_says(known, clause) for known in best):
            best.append(clause)
            if len(best) == PLANES:
                break
    poor = bool(best) and _likelihood(best[0]) > RARE
    return tuple(c for i, c in enumerate(best) if not i or ((poor or _free(c)) and _likelihood(c) < _frequent(c)))


def _frequent(clause: Clause) -> float:
    return FREQUENT_TEXT if any(atom.kind == "literal" for atom in clause) else FREQUENT


def _says(known: Clause, clause: Clause) -> bool:
    """`clause` holds whenever `known` does: each of its literals holds one of the clause's."""
    if len(known) * len(clause) > MOST_COMPARED:
        return False
    texts: dict[str, list[bytes]] = {}
    for atom in clause:
        if isinstance(atom.value, bytes):
            texts.setdefault(atom.attribute, []).append(atom.value)
    return all(
        atom in clause
        or (isinstance(atom.value, bytes) and any(text in atom.value for text in texts.get(atom.attribute, ())))
        for atom in known
    )


def _free(clause: Clause) -> bool:
    """Asking for it costs the index nothing to speak of: no text is looked up."""
    return all(atom.kind == "flag" for atom in clause)


@lru_cache(maxsize=4096)
def _clauses(item: ir.Expression, direct: str | None) -> list[Clause]:
    """`item` simplified: each clause is implied by it, all of them together. Nobody changes the list."""
    if isinstance(item, ir.And):
        return [clause for part in item.items for clause in _clauses(part, direct)]
    if isinstance(item, ir.Or):
        parts = [part for part in item.items if part != ir.Constant(False)]
        return _of_alternatives([sorted(_clauses(part, direct), key=_likelihood) for part in parts])
    if isinstance(item, ir.Regex) and item.attribute in DERIVED:
        return []
    if isinstance(item, ir.Regex) and not item.numeric:
        found = [frozenset(Atom(item.attribute, "literal", text) for text in texts) for texts in required(item.pattern)]
        return [_least(clause) for clause in found if all(map(_telling, clause))]
    atoms = [] if isinstance(item, ir.Not) else _atoms(item, direct)
    return [frozenset(atoms)] if all(map(_telling, atoms)) and atoms else []


def _least(clause: Clause) -> Clause:
    """Without the literals that hold another one of the clause: the shorter says it already."""
    texts: dict[str, list[bytes]] = {}
    for atom in clause:
        if isinstance(atom.value, bytes):
            texts.setdefault(atom.attribute, []).append(atom.value)
    if sum(map(len, texts.values())) > MOST_COMPARED:  # each with each: a long list of values stays as it is
        return clause
    shorter: dict[str, list[bytes]] = {}
    for attribute, values in texts.items():
        everything = b"\n".join(values)  # no normal text has a line break
        shorter[attribute] = [value for value in values if everything.count(value) > 1]
    if not any(shorter.values()):
        return clause
    return frozenset(atom for atom in clause if not _held(atom, shorter.get(atom.attribute, [])))


def _held(atom: Atom, shorter: list[bytes]) -> bool:
    value = atom.value
    return isinstance(value, bytes) and any(text != value and text in value for text in shorter)


def _of_alternatives(parts: list[list[Clause]]) -> list[Clause]:
    """The best clauses of each alternative joined, the second best, and so on: any choice is implied."""
    if not parts or not all(parts):
        return []
    return [
        _least(frozenset(atom for part in parts for atom in part[min(rank, len(part) - 1)]))
        for rank in range(min(PLANES, max(map(len, parts))))
    ]


@lru_cache(maxsize=65536)
def _likelihood(clause: Clause) -> float:
    """A rough guess of how often the clause holds; only its order matters."""
    texts = [atom.value for atom in clause if isinstance(atom.value, bytes) and atom.attribute not in _VALUE]
    if len(texts) == len(clause):
        return likelihood(texts)
    return likelihood(texts) + sum(_weight(atom) for atom in clause if atom.value not in texts)


def _weight(atom: Atom) -> float:
    if atom.kind == "flag":
        true = _TRUE.get(atom.attribute, _TRUE_SELDOM)
        return true if atom.value else 1.0 - true
    often = _PROGRAM.get(str(atom.value).rpartition("/")[2], 0.0) if atom.attribute in _PROGRAMS else 0.0
    return often + _VALUE.get(atom.attribute, _VALUE_SELDOM)


def _telling(atom: Atom) -> bool:
    return not isinstance(atom.value, bytes) or bool(atom.value.strip())


def _atoms(item: ir.Leaf, direct: str | None) -> list[Atom]:
    """Empty where the leaf implies nothing that can be looked up."""
    attribute = getattr(item, "attribute", "")
    if attribute in DERIVED:
        return _of_derived(item, attribute)
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


def _of_derived(item: ir.Leaf, attribute: str) -> list[Atom]:
    """Of text that is computed when asked for: what it implies of the attributes that it is made of."""
    if attribute in _OF_ARGV and isinstance(item, (ir.Text, ir.Pattern)):  # the command line is argv, joined by spaces
        if isinstance(item, ir.Text):
            begin, end = (" " if item.shape in {"exact", side} else "" for side in ("prefix", "suffix"))
            text = f"{begin}{item.value}{end}"
        else:
            text = max((part for part in item.parts if isinstance(part, str)), key=len, default="")
        return [Atom("CommandLine", "literal", normal(text.replace("\0", " ")))]
    name = _NAME_OF.get(attribute)
    if name is not None and isinstance(item, ir.Text) and item.shape == "exact" and item.value:
        return [Atom(name, "name", ir.fold(item.value))]
    return []
