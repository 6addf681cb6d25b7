"""ABCI 2.0 over a socket: messages, framing, the server around an Application, and a client that drives it."""
