"""The commands behind ./dev, run inside its environment."""

from __future__ import annotations

import sys

from libs.local.commands import main

if __name__ == "__main__":
    sys.exit(main())
