"""Codes that a node's process ends with, for whoever watches over it."""

from __future__ import annotations

UPGRADE_CODE = 78
"""This software must not go on; EX_CONFIG of sysexits, for `RestartPreventExitStatus` of a service manager."""
