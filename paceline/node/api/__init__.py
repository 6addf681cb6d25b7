"""What a node keeps for those who ask through its HTTP API: keys, usage, files, batches, replies."""
