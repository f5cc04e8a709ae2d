"""The compiler child: which bcc it takes, and what it says of those that it does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sensor.bpf import loader

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
