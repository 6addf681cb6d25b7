"""The command line: parses, wires, runs. It holds no rules, and it alone reads the environment."""
