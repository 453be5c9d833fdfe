"""What the test vectors of the rounds are made of, by family. `make_round_vectors.py` writes them."""
