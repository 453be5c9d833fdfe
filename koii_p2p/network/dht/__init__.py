"""The DHT of a node: `kademlia/` driven over streams, fed by links, asked with deadlines."""
