"""Training in rounds (DiLoCo): plan, data, inner steps, claims with committed states, replay, outer step.

Pure functions on bytes. No sockets, disks (but the corpus file) or clocks; check returns evidence and never judges.
"""
