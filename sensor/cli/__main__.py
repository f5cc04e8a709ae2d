"""`python -m sensor.cli`: the command without its console script."""

from __future__ import annotations

import sys

from sensor.cli.app import main

sys.exit(main())
