"""Answering: plan a request, run it, claim what was done, check what others claim. Plain functions, no peers, no clock."""
