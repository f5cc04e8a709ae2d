"""A build backend (PEP 517) of a package that is installed in the sandbox: it compiles, and needs nothing but pip."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

WHEEL = "quick-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: quick\nVersion: 1.0\n"
ABOUT = "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-any\n"


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: object = None) -> str:
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", "native.so", "quick.c"], check=True)
    files = {
        "quick.py": Path("quick.py").read_bytes(),
        "native.so": Path("native.so").read_bytes(),
        "quick-1.0.dist-info/METADATA": METADATA.encode(),
        "quick-1.0.dist-info/WHEEL": ABOUT.encode(),
    }
    record = "quick-1.0.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in (*files, record)).encode()
    with zipfile.ZipFile(Path(wheel_directory, WHEEL), "w") as wheel:
        for name, data in files.items():
            wheel.writestr(name, data)
    return WHEEL
