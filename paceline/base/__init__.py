"""The ground floor: bytes, integers, hashes, trees, keys, draws and errors. Knows nothing of a network."""
