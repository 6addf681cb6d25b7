"""One module that many trainers take turns on: a trainer's parameters are loaded when it trains and kept when it has to go.

It refuses to know rules and rounds. Invariant: trainers with equal parameters share one tensor; a copy is made when
one of them moves away from it and another wants the module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paceline.training.methods.flat_model import FlatModel


class Desk:
    """One trainer's parameters: a tensor that others may share, or what lies on the workbench right now."""

    def __init__(self, bench: Workbench, params: Tensor) -> None:
        self._bench = bench
        self.params = params
        self.moved = False
        """True when the workbench holds something newer than `params`."""

    def read(self) -> Tensor:
        """The parameters, not to be written; valid until anyone trains."""
        return self._bench.model.values if self.moved else self.params

    def write(self) -> Tensor:
        """The parameters on the workbench, to be changed in place."""
        self._bench.load(self)
        self.moved = True
        self._bench.loaded = None
        return self._bench.model.values

    def replace(self, params: Tensor) -> None:
        """Other parameters, shared with whoever else holds that tensor."""
        if self.moved:
            self.moved = False
            self._bench.owner = None
        elif self._bench.owner is self:
            self._bench.owner = None
        self.params = params

    def keep(self) -> Tensor:
        """The parameters as a tensor that stays as it is."""
        if self.moved:
            self._bench.flush()
        return self.params


class Workbench:
    """The module, who is at it, and which tensor its values equal."""

    def __init__(self, model: FlatModel) -> None:
        self.model = model
        self.owner: Desk | None = None
        self.loaded: Tensor | None = None
        """The tensor that the module's values equal; None when they equal none."""

    def load(self, desk: Desk) -> None:
        """Put a trainer's parameters into the module."""
        if self.owner is desk:
            return
        self.flush()
        if self.loaded is not desk.params:
            self.model.values.copy_(desk.params)
            self.loaded = desk.params
        self.owner = desk

    def flush(self) -> None:
        """Keep what the trainer at the bench has changed."""
        if self.owner is not None and self.owner.moved:
            self.owner.params = self.model.values.clone()
            self.owner.moved = False
            self.loaded = self.owner.params
        self.owner = None

    def evaluate(self, params: Tensor, batches: list[Tensor]) -> float:
        """Mean loss of some parameters; nobody's own change.

        Effects: none on what lies on the bench.
        """
        with torch.no_grad():
            return self.model.evaluate(params, batches)
