"""A real local K2: a Solana VM behind JSON-RPC and WebSocket, with slots and persistence."""
