"""Koii's own task program as a carrier: its public instruction layouts. Never run against the real K2."""
