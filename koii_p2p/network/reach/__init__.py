"""How others get at a node that they cannot just dial: dial-backs, relays, hole punching."""
