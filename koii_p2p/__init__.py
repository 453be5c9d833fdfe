"""koii_p2p: a peer-to-peer node for Koii tasks. Rounds happen off the chain; K2 holds two roots per round."""

__version__ = "0.1.0"
