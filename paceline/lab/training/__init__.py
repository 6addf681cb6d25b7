"""Training with little communication, simulated: virtual trainers on a virtual clock, every byte counted."""
