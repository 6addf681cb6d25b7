"""A node's chain: the engine under it, snapshots, state files, upgrades, and what it tells others of blocks."""
