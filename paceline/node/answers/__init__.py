"""An answer on its way through a node: planned, queued, streamed, continued elsewhere, sealed, and proven by a receipt."""
