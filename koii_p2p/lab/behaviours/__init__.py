"""How simulated nodes behave: small rules that compose, with one parameter each."""
