"""What nodes say: strict CBOR, COSE_Sign1 envelopes, and the schema of every record. Pure."""
