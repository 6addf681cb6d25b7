"""Paceline: a network in which anyone's machines train and serve open models and every paid result can be checked."""
