"""Where the checkout is; the local stack is a tool of the checkout, not of an installed wheel."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
