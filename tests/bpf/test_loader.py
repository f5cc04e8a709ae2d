"""The compiler child: which bcc it takes, and what it says of those that it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sensor.bpf import loader
from sensor.errors import LoadError

ASK = "from sensor.bpf.loader import import_bcc; import_bcc()"


def refusal(folder: Path, package: str | None) -> str:
    """What is said where `import bcc` finds a package with this text; None: a module that is not there."""
    (folder / "bcc").mkdir()
    text = package if package is not None else 'raise ModuleNotFoundError("No module named \'bcc\'", name="bcc")'
    (folder / "bcc" / "__init__.py").write_text(text)
    top = Path(loader.__file__).resolve().parents[2]
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(top)!r}]; {ASK}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    kind, _, message = done.stderr.splitlines()[-1].partition(": ")
    assert kind == "sensor.errors.HostError"
    return message


def test_a_missing_bcc_says_what_to_install_and_which_python_lacks_it(tmp_path: Path) -> None:
    said = refusal(tmp_path, None)
    assert said.startswith(f"{sys.executable} has no module bcc: apt-get install python3-bpfcc")
    assert "/usr/bin/python3" in said


def test_the_unrelated_bcc_of_pypi_is_named(tmp_path: Path) -> None:
    said = refusal(tmp_path, "__version__ = '1.0'")
    assert str(tmp_path / "bcc") in said
    assert "pip uninstall bcc" in said


@pytest.mark.parametrize(
    "package",
    [
        "import ctypes; ctypes.CDLL('libbcc-absent.so.0')",
        "raise ImportError('libbcc.so.0: cannot open shared object file')",
        "from .libbcc import absent",
        "raise OSError('libbcc.so.0: undefined symbol: bpf_module_create')",
    ],
)
def test_another_pythons_bcc_says_what_to_install(tmp_path: Path, package: str) -> None:
    said = refusal(tmp_path, package)
    assert "bcc" in said
    assert "apt-get install python3-bpfcc" in said


@pytest.mark.parametrize(
    "package", ["raise SyntaxError('print is a function')", "x = )", "raise AttributeError('imp')"]
)
def test_a_bcc_that_fails_in_another_way_is_still_one_line(tmp_path: Path, package: str) -> None:
    """One made for another version of Python may fail with anything."""
    assert "apt-get install python3-bpfcc" in refusal(tmp_path, package)


def test_what_fails_in_the_child_beside_is_the_error() -> None:
    def fail() -> None:
        raise LoadError("the kernel refused the program on_packet: too complex")

    with pytest.raises(LoadError, match="on_packet: too complex"), loader._beside(fail):
        pass


def test_an_error_of_our_own_comes_before_the_childs() -> None:
    def fail() -> None:
        raise LoadError("theirs")

    with pytest.raises(LoadError, match="ours"), loader._beside(fail):
        raise LoadError("ours")


def test_a_child_that_dies_ends_this_process_with_nothing_said() -> None:
    """As LLVM does: `objects.build` then takes the last line of stderr for the reason."""
    with pytest.raises(SystemExit), loader._beside(lambda: os.kill(os.getpid(), signal.SIGKILL)):
        pass
