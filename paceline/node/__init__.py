"""Roles and their wiring: the only room that holds network, disk and time together."""
