"""The Race: a contest in exact integers whose count of hits becomes voting power."""
