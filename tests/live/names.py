"""Names for what the live tests make. Each holds the token of this run, so that what is left behind can be told
from what another run on the same machine still uses; child processes carry it in their environment."""

from __future__ import annotations

import os
import secrets

VARIABLE = "PINFOLD_TEST_SESSION"
TOKEN = os.environ[VARIABLE] = secrets.token_hex(3)


def unique() -> str:
    """Ten hexadecimal digits, the run's first."""
    return TOKEN + secrets.token_hex(2)
