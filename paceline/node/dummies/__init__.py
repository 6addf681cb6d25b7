"""Dummy tasks of a relay: what they look like, when they go out, how they are shown to the ledger."""
