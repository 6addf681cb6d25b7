"""Simulators with floats. Only the command line uses them; nothing a node decides comes from here."""
