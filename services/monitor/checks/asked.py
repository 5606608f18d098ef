"""A question, and how its figure is measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.monitor.model.checks import Measured, Question
from services.monitor.servicer.desk import Desk

Measure = Callable[[Desk], Awaitable[Measured]]
"""Raises Unmeasurable, or what a statement raises, where there is no figure."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One of CheckHealth's."""

    question: Question
    measure: Measure
