"""Beside the ledger's bridge: reading the other chain, proofs of deposits, attesters' keys and signatures, calls to the contract."""
