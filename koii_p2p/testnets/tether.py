"""`python -m koii_p2p.testnets.tether PARENT COMMAND...`: run a command that does not outlive its parent.

Asks the kernel to kill this process when the process `PARENT` ends, however it ends, then becomes the command
(the request outlives `exec`). So even `kill -9` of a testnet leaves no process and no open port behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(arguments[0]), arguments[1:]
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0) != 0:
        sys.exit(f"tether: prctl: {os.strerror(ctypes.get_errno())}")
    # The parent may have ended before the request was made; then nobody would ever end us.
    if os.getppid() != parent:
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
