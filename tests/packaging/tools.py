"""Programs that the tests of this folder need. packaging/test installs and demands them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
PACKAGING = TOP / "packaging"


def tool(name: str) -> str:
    """Its path. Where it is not installed: a failure under PINFOLD_DEMAND=1, else a skip that says so."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        complaint = pytest.fail if os.environ.get("PINFOLD_DEMAND") == "1" else pytest.skip
        complaint(f"{name} is not installed; packaging/test installs it")
    return found
