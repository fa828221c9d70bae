"""Speed and memory of the exchange."""
