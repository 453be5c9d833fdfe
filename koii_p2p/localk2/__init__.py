"""A real local K2: a Solana VM behind JSON-RPC and WebSocket, with slots and persistence."""

from __future__ import annotations

from koii_p2p.localk2.faults import Faults
from koii_p2p.localk2.server import LocalK2Address, serve
from koii_p2p.localk2.settings import LocalK2Settings
from koii_p2p.localk2.task_reader import TaskReader

__all__ = ["Faults", "LocalK2Address", "LocalK2Settings", "TaskReader", "serve"]
