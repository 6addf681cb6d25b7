"""How a machine becomes a node and stays one: reachable, known, registered, its keys kept safe."""
