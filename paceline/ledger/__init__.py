"""The state machine: signed transactions in, one state out, the same on every machine. Integers only; time is height.

Knows nothing of clocks, disks, threads, sockets or tensors. One `Application` carries the ABCI verbs as methods.
"""
