"""One method for each RPC."""
