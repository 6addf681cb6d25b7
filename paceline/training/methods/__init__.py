"""Methods of training with little communication: each is a composition of parts, and one engine runs them all."""
