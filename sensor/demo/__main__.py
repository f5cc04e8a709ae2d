"""`python -m sensor.demo`."""

import sys

from sensor.demo.main import main

sys.exit(main())
