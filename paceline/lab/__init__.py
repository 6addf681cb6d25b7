"""Simulators with floats: what attacks and honest noise look like to the tests of answers."""
