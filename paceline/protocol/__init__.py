"""Frozen messages, their canonical bytes and limits. Everything that two nodes must agree on byte by byte is here."""
