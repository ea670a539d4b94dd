"""One cell: a training run that differs from its neighbours in schedule, seed or the numbers of its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lrscope.optimizers.spec import OptimizerSpec
from lrscope.schedules import Schedule


@dataclass(frozen=True)
class Cell:
    """What distinguishes one run of a batch of runs.

    Attributes:
        schedule: Absolute learning rate as a function of the step.
        seed: Decides initialisation, data order and the model's own draws.
        name: Shown in tables; empty for none.
        optimizer: Numbers of the common update rule that are this run's own, by the names of
            :class:`~lrscope.optimizers.OptimizerSpec`: momentum, weight_decay, betas and the like. The rule itself
            and its switches are common to all cells of a call.

    Example:
        >>> str(Cell(Constant(0.1), optimizer={"momentum": 0.5}).rule(OptimizerSpec("sgd")))
        'sgd(momentum=0.5)'
    """

    schedule: Schedule
    seed: int = 0
    name: str = ""
    optimizer: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def rule(self, common: OptimizerSpec) -> OptimizerSpec:
        """``common`` with this cell's numbers in it.

        Raises:
            TypeError: ``optimizer`` is no mapping.
            ValueError: It names another rule or turns a switch, or an option or value the rule does not have.
        """
        if not isinstance(self.optimizer, Mapping):
            raise TypeError(f"optimizer: expected a dict of numbers by name, got {type(self.optimizer).__name__}")
        if not self.optimizer:
            return common
        options = common.to_spec()
        for key, value in self.optimizer.items():
            switch = key == "name" or isinstance(options.get(key), bool)
            if switch and value != options[key]:
                raise ValueError(
                    f"optimizer: {key}={value!r} differs from the common {key}={options[key]!r}; cells of one call "
                    "share the rule and its switches, only numbers may differ; make a call for each"
                )
        return OptimizerSpec.from_spec(options | dict(self.optimizer))
