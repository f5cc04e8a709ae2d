"""The compiler child: compiles the probes with BCC, loads, pins, keeps what it made for the next time, and exits.

The only importer of bcc, which brings LLVM and some 120 MB: they leave with this process.
Run as `python -m sensor.bpf.loader`, a Request as JSON on stdin, a Result as JSON on stdout.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from sensor.bpf import bytecode, headers, maps, pinning, programs
from sensor.bpf.btf import Btf
from sensor.errors import HostError, LoadError, PinfoldError

_programs = msgspec.msgpack.Decoder(tuple[bytecode.Program, ...])
# More than half of clang's time: lines of source, which are for nobody; unrolled loops, which are only more to verify;
# and clang's own optimising passes, after which BCC runs all of them anew.
_LEAN = ("-g0", "-fno-unroll-loops", "-Xclang", "-disable-llvm-passes")


class Request(msgspec.Struct, frozen=True):
    """`folder` is filled with `map-<name>` and `program-<name>` pins; it is there, and empty."""

    folder: str
    generation: int
    shared: str  # the folder in which the maps that all generations share are pinned
    scratch: str  # an empty folder for headers and compiled programs; the caller removes it: LLVM may end this process
    sizes: maps.Sizes
    features: tuple[str, ...]


class Result(msgspec.Struct, frozen=True):
    error: str = ""


def compiled(scratch: str) -> tuple[bytecode.Program, ...]:
    """What a compiler child without an error left there."""
    files = [Path(scratch) / f"unit-{unit}" for unit in range(len(programs.UNITS))]
    return tuple(each for file in files for each in _programs.decode(file.read_bytes()))


def import_bcc() -> Any:
    """Debian's bcc. Raises HostError for its absence and for its namesakes."""
    wanted = "apt-get install python3-bpfcc, and run pinfold with /usr/bin/python3 or a venv made from it"
    try:
        import bcc  # noqa: PLC0415  (the point of this process is that nobody else imports it)
    except ImportError as cause:
        where = "its libbcc cannot be loaded" if "libbcc" in str(cause) else f"{sys.executable} has no module bcc"
        raise HostError(f"{where}: {wanted}") from cause
    except Exception as cause:  # one made for another Python may fail with anything
        why = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise HostError(f"bcc cannot be loaded ({why}): {wanted}") from cause
    if not hasattr(bcc, "BPF"):
        place = getattr(bcc, "__file__", None) or "unknown place"
        raise HostError(f"the module bcc at {place} is not BCC but PyPI's unrelated `bcc`: pip uninstall bcc; {wanted}")
    return bcc


def compile_and_pin(request: Request) -> None:
    tree = Path(request.scratch) / "headers"
    tree.mkdir()
    with _beside(lambda: headers.write_tree(tree, Btf(), "connect_unix" in request.features)):
        bcc = import_bcc()
        descriptors = pinning.make_maps(Path(request.folder), Path(request.shared), request.sizes)
    flags = [f"-DPF_FD_{name}={descriptor}" for name, descriptor in descriptors.items()]
    flags += [f"-DPF_GENERATION={request.generation}ULL", f"-DPF_RING_BYTES={request.sizes.ring_bytes}ULL"]
    flags.append(f"-DPF_FLOWS={request.sizes.flows}")
    flags += [f"-DPF_HAVE_{feature.upper()}" for feature in request.features]
    os.environ["BCC_KERNEL_SOURCE"] = str(tree)
    # Forked before LLVM has done anything that the two would have to share.
    with _beside(lambda: _unit(bcc, request, 1, descriptors, flags)):
        _unit(bcc, request, 0, descriptors, flags)


@contextlib.contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    """Does `work` in a child meanwhile. Raises LoadError for what it raised; its death ends this process alike."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _work(work, tell)
    os.close(tell)
    try:
        yield
    finally:
        with open(told, "rb") as file:
            error = file.read().decode("utf-8", "replace")
        _, status = os.waitpid(child, 0)
    if error:
        raise LoadError(error)
    if status:
        sys.exit(1)  # with nothing on stdout: whoever asked looks for the last line on stderr


def _work(work: Callable[[], None], tell: int) -> NoReturn:
    """A forked child must not return into what its parent does."""
    status = 1
    try:
        work()
        status = 0
    except Exception as error:
        os.write(tell, str(error).encode()[:4096] or b"the compiler failed")
    finally:
        os._exit(status)


def _unit(bcc: Any, request: Request, unit: int, descriptors: dict[str, int], flags: list[str]) -> None:
    try:
        module = bcc.BPF(text=programs.source(unit), cflags=[*flags, *_LEAN, "-Wno-everything"])
    except Exception as cause:
        raise LoadError(f"the probes do not compile on this kernel: {cause}") from cause
    made = []
    for program in programs.of_unit(unit, frozenset(request.features)):
        loaded = _load(module, program)
        pinning.pin_program(Path(request.folder), program, loaded, descriptors)
        code = module.dump_func(program.name)
        made.append(bytecode.program(program.name, code, descriptors, request.generation))
    (Path(request.scratch) / f"unit-{unit}").write_bytes(msgspec.msgpack.encode(made))


def _load(module: Any, program: programs.Program) -> int:
    attach = pinning.attach_type(program)
    try:
        return int(module.load_func(program.name, int(program.kind), None, attach or -1).fd)
    except Exception as cause:
        raise LoadError(f"the kernel refused the program {program.name}: {cause}") from cause


def main() -> int:
    """clang and the verifier write to stderr, which the caller keeps; a backend error of LLVM ends the
    process there and then, with nothing on stdout."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    try:
        compile_and_pin(request)
        result = Result()
    except PinfoldError as error:
        result = Result(str(error))
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 1 if result.error else 0


if __name__ == "__main__":
    sys.exit(main())
