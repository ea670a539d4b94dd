"""What a measurement cost, in work and in seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True)
class Cost:
    """Work done. Costs add.

    Attributes:
        forwards: Forward passes without a gradient.
        gradients: Gradient evaluations (one forward and one backward pass).
        products: Hessian-vector products, whatever the method.
        updates: Optimizer updates.
        seconds: Wall time.
    """

    forwards: float = 0
    gradients: float = 0
    products: float = 0
    updates: float = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))

    def in_gradients(self, *, per_forward: float = 1 / 3, per_product: float = 2.1) -> float:
        """One number: gradient evaluations, with a forward pass booked as a third and a product as 2.1."""
        return self.gradients + per_forward * self.forwards + per_product * self.products

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items()}
