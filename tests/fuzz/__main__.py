"""`python -m tests.fuzz [--seconds N] [--seed N]`: every dissector, alone and in the order of `recognise`.

Ends with 1 at the first input that raises, or whose result is unsound, and prints it in hex.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from collections.abc import Callable
from random import Random, SystemRandom

from sensor.enrich import protocols
from sensor.enrich.protocols.recognise import recognise_pair
from sensor.enrich.protocols.result import Found
from tests.fuzz import build
from tests.fuzz.checks import checked
from tests.fuzz.mutate import mutated
from tests.fuzz.samples import ALL

ROUND = 500  # inputs between two looks at the clock
SHORT, LONG = 512, 4096
REPEATS = 20

Call = Callable[[bytes], Found | None]


def calls() -> dict[str, Call]:
    """All that takes first bytes: the package's modules are listed, so that a new one is not forgotten."""
    found: dict[str, Call] = {}
    for module in pkgutil.iter_modules(protocols.__path__):
        loaded = importlib.import_module(f"{protocols.__name__}.{module.name}")
        for name in ("dissect", "recognise"):
            act = getattr(loaded, name, None)
            if callable(act) and act.__module__ == loaded.__name__:
                found[f"{module.name} tcp"] = _one_side(act, False)
                found[f"{module.name} udp"] = _one_side(act, True)
        pair = getattr(loaded, "dissect_pair", None)
        if pair is not None:
            found[f"{module.name} pair"] = _both_sides(pair)
    found["recognise pair"] = _both_sides(recognise_pair)
    return found


def _one_side(act: Callable[[bytes, bool], Found | None], udp: bool) -> Call:
    return lambda data: act(data, udp)


def _both_sides(act: Callable[[bytes, bytes], Found | None]) -> Call:
    """In every second input the lengths are Stratum 2's, which hardly one would have by chance."""
    return lambda data: act(data[:64], data[64 : 234 + len(data) % 2])


def fuzz(source: Random, seconds: float) -> int:
    acts = calls()
    known = dict.fromkeys(acts, 0)
    samples = [sample.data for sample in ALL]
    started = time.perf_counter()
    inputs = 0
    while time.perf_counter() - started < seconds:
        for _ in range(ROUND):
            data = mutated(source, samples)
            for name, act in acts.items():
                try:
                    known[name] += checked(act(data)) is not None
                except Exception as error:
                    print(f"{name}: {type(error).__name__}: {error}\n{data.hex()}")
                    return 1
        inputs += ROUND
    spent = time.perf_counter() - started
    print(f"{inputs} inputs, {inputs * len(acts) / spent:,.0f} executions/s")
    for name, count in known.items():
        print(f"{name:24} {count:9} recognised {inputs - count:9} unknown")
    return 0


def growth() -> None:
    """How much longer eight times the bytes take, in the worst shape of each; linear is 8 at most.

    Printed and not asserted: clocks are no proof.
    """
    acts = calls()
    shapes = [sample.data[:at] for sample in ALL for at in (2, 16, 60, len(sample.data))]
    shapes += [build.record(build.message([(0x6000, b"")] * 1000)), build.records(build.browser(), 1)]
    pieces = [b"\0", b"\x01", b" ", b"a", b"{", b"[", b'"', b"\\", b"\n", b"\xff", b",", b'{"a":', b"\x1b[", b"\nSSH-"]
    print(f"time at {LONG} bytes to time at {SHORT}:")
    for name, act in acts.items():
        worst = (0.0, 0.0, b"")
        for shape in shapes:
            for piece in pieces:
                whole = (shape + piece * LONG)[:LONG]
                long = _once(act, whole)
                if long > worst[1]:
                    worst = (long / max(_once(act, whole[:SHORT]), 1e-9), long, whole)
        ratio = _best(act, worst[2]) / max(_best(act, worst[2][:SHORT]), 1e-9)
        print(f"{name:24} {ratio:6.1f}  {_best(act, worst[2]) * 1e6:9.1f} us  {worst[2][:24].hex()}")


def _once(act: Call, data: bytes) -> float:
    started = time.perf_counter()
    act(data)
    return time.perf_counter() - started


def _best(act: Call, data: bytes) -> float:
    return min(_once(act, data) for _ in range(REPEATS))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzzes the protocol dissectors.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same inputs")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    failed = fuzz(Random(seed), options.seconds)  # noqa: S311 - to be repeated, not to be secret
    if not failed:
        growth()
    return failed


if __name__ == "__main__":
    sys.exit(main())
