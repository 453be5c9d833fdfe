"""`python -m koii_p2p.cli`: the same as the command `koii-p2p`."""

from __future__ import annotations

from koii_p2p.cli.main import main

main()
