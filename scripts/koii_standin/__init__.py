"""A stand-in for Koii's task program, to run its public instruction layouts against. Not Koii's program."""
