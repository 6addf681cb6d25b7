"""What a node keeps: the state with its Merkle root, the blocks, and blobs by content."""
