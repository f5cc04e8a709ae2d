"""`python -m sensor.demo`."""

import sys

from sensor.demo.command import main

sys.exit(main())
