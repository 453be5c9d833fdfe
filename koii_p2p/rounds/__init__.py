"""Gradual consensus as pure functions, and one `RoundEngine`: events in, actions out."""
