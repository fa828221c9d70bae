"""Entry point of `python -m timm_moex`, equivalent to `timm-moex`."""

import sys

from .cli import main

sys.exit(main())
