"""Starts, watches, breaks and checks a net of real node processes."""
