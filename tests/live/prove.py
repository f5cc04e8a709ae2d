"""Proves that the tests can fail: breaks one thing of the probes at a time, and says who noticed.

`sudo packaging/prove [NAME…]`. A thing is an offset (shifted by 8 bytes) or a program (not attached, or,
for those that are run by hand, not run). It is noticed if the sensor's self-test refuses the start, else
if a named live test fails that passes with nothing broken. Exit status 1 where anything goes unnoticed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from sensor.bpf import features, headers, programs
from sensor.bpf.attach import OFF_VARIABLE
from sensor.bpf.btf import Btf
from tests.live.running import Running

# Asked in this order where the self-test let the break pass.
TESTS = tuple(
    f"tests/live/test_{name}.py"
    for name in (
        "layout",
        "process_probes",
        "network_probes",
        "flow_probes",
        "device_probe",
        "cgroup_probes",
        "containment",
        "guard",
        "system_calls",
    )
)
TOP = Path(__file__).resolve().parents[2]
NOTHING = "nothing"  # a control: it breaks nothing, so it must go unnoticed
SELF_TEST = "self-test"
UNNOTICED = "UNNOTICED"
HARMLESS = "harmless"


class Break(Struct, frozen=True):
    """`environment` has the daemon do it."""

    name: str
    what: str
    environment: dict[str, str]


class Found(Struct, frozen=True):
    """`by`: the self-test, a test's id, harmless, or UNNOTICED. `detail`: one line."""

    by: str
    detail: str


class Twin(Struct, frozen=True):
    """The member 8 bytes behind, which holds the same whenever the probes look: no test could tell the two
    apart. Believed only if BTF has it there, every test passes, and a shift by 16 is noticed."""

    member: str
    why: str


TWINS = {
    "task_struct.mm": Twin("active_mm", "exec_mmap() sets both to the new mm (fs/exec.c), just before the probe reads"),
    "mm_struct.arg_end": Twin(
        "env_start", "create_elf_tables() sets both to one address (fs/binfmt_elf.c), just before the probe reads"
    ),
    "cred.euid": Twin("fsuid", "exec makes it the effective one (security/commoncap.c), just before the probe reads"),
    "cred.egid": Twin("fsgid", "exec makes it the effective one (security/commoncap.c), just before the probe reads"),
}


def shift(name: str, by: int) -> Break:
    return Break(name, f"offset of {name} + {by}", {headers.SHIFT_VARIABLE: f"{name}+{by}"})


def breaks() -> dict[str, Break]:
    """All there are on this kernel, by name."""
    chosen = features.chosen()
    found = [shift(name, 8) for name in headers.offsets(Btf(), "connect_unix" in chosen)]
    for program in programs.chosen(frozenset(chosen)):
        found.append(Break(program.name, f"program {program.name} off", {OFF_VARIABLE: program.name}))
    return {one.name: one for one in found}


class Proof:
    """`tests` are asked where the self-test is silent; `cache` keeps compiled rules."""

    def __init__(self, tests: Sequence[str], cache: str) -> None:
        self._tests = tests
        self._cache = cache
        self._sound: dict[str, bool] = {}  # test id → passes with nothing broken

    def starts(self, environment: dict[str, str]) -> str:
        """What a start of the sensor said when it was refused; empty: it started."""
        sensor = Running(cache=self._cache, **environment)
        try:
            sensor.start()
        except AssertionError as error:
            status = sensor.process.poll() if sensor.process else None
            said = sensor.said().strip()
            if status != 1 or "\n" in said or not said.startswith("pinfold: self-test: "):
                raise RuntimeError(f"neither a start nor a refusal, status {status}: {said or error}") from error
            return said.removeprefix("pinfold: self-test: ")
        finally:
            sensor.remove()
        return ""

    def first_failing(self, environment: dict[str, str]) -> str:
        """The id of the first test that fails, or empty. A test that fails with nothing broken is no witness."""
        failing = self._run(self._tests, environment)
        if failing and not self._passes(failing):
            raise RuntimeError(f"{failing} fails with nothing broken too")
        return failing

    def _passes(self, test: str) -> bool:
        if test not in self._sound:
            self._sound[test] = not self._run([test], {})
        return self._sound[test]

    def _run(self, tests: Sequence[str], environment: dict[str, str]) -> str:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", *tests]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=TOP, env={**os.environ, **environment}
        )
        failing = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if failing:
            return failing[1]
        if done.returncode:
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
        return ""

    def who_notices(self, broken: Break) -> Found:
        refused = self.starts(broken.environment)
        if refused:
            return Found(SELF_TEST, refused)
        failing = self.first_failing(broken.environment)
        if failing:
            return Found(failing, "the self-test let it pass")
        return self._excuse(broken) or Found(UNNOTICED, "the sensor starts, and every test passes")

    def _excuse(self, broken: Break) -> Found | None:
        twin = TWINS.get(broken.name)
        if twin is None:
            return None
        struct, _, member = broken.name.partition(".")
        btf = Btf()
        if btf.offset(struct, twin.member) != btf.offset(struct, member) + 8:
            return None
        refused = self.starts(shift(broken.name, 16).environment)
        if not refused:
            return None
        return Found(HARMLESS, f"+ 8 is {twin.member}: {twin.why}; every test passes; + 16 is refused: {refused}")


def prove(wanted: Sequence[Break], proof: Proof, say: Callable[[str], None]) -> list[Found]:
    """A line as each is found."""
    found = []
    width = max(len(broken.what) for broken in wanted)
    for broken in wanted:
        try:
            one = proof.who_notices(broken)
        except RuntimeError as trouble:
            one = Found(UNNOTICED, str(trouble).replace("\n", " | "))
        found.append(one)
        say(f"{broken.what:{width}}  {one.by:9}  {one.detail[:230]}")
    return found


def sound(proof: Proof, say: Callable[[str], None]) -> bool:
    """With nothing broken the sensor starts: else whatever is broken seems to be noticed."""
    try:
        refused = proof.starts({})
    except RuntimeError as trouble:
        refused = str(trouble)
    if refused:
        say(f"with nothing broken the sensor does not start, so nothing is proved: {refused}")
    return not refused


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="packaging/prove", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"struct.member, on_program or {NOTHING}; else all")
    parser.add_argument("--tests", nargs="+", metavar="TEST", default=list(TESTS), help="pytest's, instead of all")
    parser.add_argument("--list", action="store_true", help="print the names, break nothing")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str], known: dict[str, Break]) -> Iterator[Break]:
    control = Break(NOTHING, NOTHING, {})
    for name in names or known:
        if name not in known and name != NOTHING:
            raise SystemExit(f"packaging/prove: there is no {name!a} to break; see --list")
        yield known.get(name, control)


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    known = breaks()
    if options.list:
        print("\n".join(known))
        return 0
    wanted = list(chosen(options.names, known))
    for variable in (headers.SHIFT_VARIABLE, OFF_VARIABLE):
        os.environ.pop(variable, None)
    begun = time.monotonic()

    def say(text: str) -> None:
        print(text, flush=True)

    with tempfile.TemporaryDirectory(prefix="pinfold-prove-") as cache:
        proof = Proof(options.tests, cache)
        if not sound(proof, say):
            return 1
        found = prove(wanted, proof, say)
        if not sound(proof, say):
            return 1
    by = [one.by for one in found]
    named = len(by) - sum(by.count(kind) for kind in (SELF_TEST, HARMLESS, UNNOTICED))
    say(
        f"{len(found)} broken one at a time: {by.count(SELF_TEST)} noticed by the self-test, {named} by named tests; "
        f"{by.count(HARMLESS)} harmless, {by.count(UNNOTICED)} unnoticed; {time.monotonic() - begun:.0f} s"
    )
    return 1 if UNNOTICED in by else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
