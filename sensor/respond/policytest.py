"""A policy's own examples, asked."""

from __future__ import annotations

from msgspec import Struct

from sensor.config import Config
from sensor.configexamples import Example, asked
from sensor.configfile import lines
from sensor.errors import UsageError
from sensor.respond import questions
from sensor.respond.explain import Answer, Host, asker
from sensor.respond.policy import Subject
from sensor.respond.questions import Question


class Outcome(Struct, frozen=True):
    """`answer` is None where the example is no question; `why` says so then."""

    index: int
    line: int
    question: str  # `agents: connect 192.0.2.1:443`
    expected: str
    found: str
    why: str
    answer: Answer | None

    @property
    def passed(self) -> bool:
        return self.answer is not None and self.found == self.expected


def run(config: Config, file: str, host: Host | None = None) -> list[Outcome]:
    """Every example of the file, in order; none where it has none. `config`: what `config.load(file)` gave."""
    ask = asker(config, file, host)
    line = lines(file)
    outcomes = []
    for index, example in enumerate(config.examples):
        named = f"{example.class_}: {shown(example)}"
        where = line(("examples", index))
        try:
            answer = ask(example.class_, question(example))
        except UsageError as error:
            outcomes.append(Outcome(index, where, named, example.expect, "no answer", str(error), None))
            continue
        why = f"{answer.why}; {answer.place(file)}"
        outcomes.append(Outcome(index, where, named, example.expect, answer.verdict, why, answer))
    return outcomes


def question(example: Example) -> Question:
    """:raises UsageError: it is nothing that can be asked."""
    if example.connect:
        return questions.connect(example.connect)
    if example.device:
        return questions.device(example.device)
    if example.exec_:
        return questions.executable(example.exec_)
    found = example.detection
    if found is None:
        raise UsageError("an example has one of connect, device, exec and detection")
    # A rule by id or title: whichever a rule of the policy names.
    return Subject(found.level, found.rule, found.rule, found.tags, found.score or None)


def shown(example: Example) -> str:
    (kind,) = asked(example)
    if kind != "detection" or example.detection is None:
        return f"{kind} {example.connect or example.device or example.exec_}"
    found = example.detection
    parts = [found.level, found.rule and f"rule {found.rule}", *found.tags, found.score and f"score {found.score}"]
    return "detection " + ", ".join(str(part) for part in parts if part)
