"""The libp2p host, gossip, request and response, and discovery, each contained to its peer."""
