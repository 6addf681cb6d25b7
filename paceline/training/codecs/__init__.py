"""What travels instead of fp32 numbers: pure functions from a vector to bytes and back, each with its exact byte count."""
