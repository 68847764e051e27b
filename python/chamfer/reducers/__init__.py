"""Reducers: a set of vectors becomes one vector whose inner products approximate MaxSim."""

from chamfer.reducers.ball_carving import ball_carving
from chamfer.reducers.fixed_dimensional import FixedDimensionalEncoder

__all__ = ["FixedDimensionalEncoder", "ball_carving"]
