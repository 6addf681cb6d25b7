"""What a node does: one file per role. A role looks at committed state and does what is due, again and again.

Nothing a role must not forget lives in memory only: after a crash the state says what is still due.
"""
