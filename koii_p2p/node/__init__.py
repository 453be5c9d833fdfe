"""The node: supervised services that put the rooms together, and the operator's HTTP API."""
