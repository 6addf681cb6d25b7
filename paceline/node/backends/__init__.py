"""Engines that run in processes of their own, behind `inference.backend`."""
