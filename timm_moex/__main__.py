"""`python -m timm_moex`, the same as `timm-moex`."""

import sys

from .cli import main

sys.exit(main())
