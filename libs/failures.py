"""What goes wrong for whoever runs a command, and that he can mend."""

from __future__ import annotations


class Failure(Exception):
    """The message says what is wrong, in a sentence; it is shown instead of a traceback."""
