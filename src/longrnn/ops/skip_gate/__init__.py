"""The gate of layers that choose by their inputs which steps to skip."""
