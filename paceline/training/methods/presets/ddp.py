"""The two ends of the scale: everyone's gradient every step, and no word between trainers at all."""

from __future__ import annotations

from paceline.training.methods.local import LocalOptimizer
from paceline.training.methods.presets.preset import Preset
from paceline.training.methods.strategy import Rule, Strategy, Subject


def ddp(*, trainers: int, local: LocalOptimizer) -> Strategy:
    """Data parallel: the inner optimiser steps on the mean gradient of all trainers, every step.

    Source: PyTorch Distributed, arXiv 2006.15704.
    """
    return Strategy(name="ddp", local=local, rules=(Rule(subject=Subject.GRADIENT),))


def alone(*, trainers: int, local: LocalOptimizer) -> Strategy:
    """No communication; only the average of the replicas is evaluated. The negative control.

    Source: one-shot averaging, Zinkevich et al., Parallelized Stochastic Gradient Descent, 2010.
    """
    return Strategy(name="none", local=local)


PRESETS = (Preset(name="ddp", build=ddp), Preset(name="none", build=alone))
