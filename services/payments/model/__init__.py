"""What payments knows, as frozen values and rules. No I/O."""
