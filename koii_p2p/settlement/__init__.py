"""K2: the JSON-RPC client, the `Settlement` interface and the settlement program's client."""
