"""Sizes and ages for people."""

from __future__ import annotations


def pretty(size_bytes: float) -> str:
    """12 MB, as pg_size_pretty writes it: powers of 1024, no fractions."""
    size, units = float(size_bytes), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while abs(size) >= 10 * 1024 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.0f} {units[0]}"


def age(seconds: float) -> str:
    """5 s, 12 min, 3 h, 2 d."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
