"""One function for each statement of queries/, by the same name."""
