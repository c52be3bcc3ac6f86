"""``python -m retinaflow``: the command ``retinaflow``."""

import sys

from retinaflow.cli import main

sys.exit(main())
