"""The `koii-p2p` command: one module per command group; prints, never decides."""
