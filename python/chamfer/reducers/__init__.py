"""Reducers: a set of vectors becomes one vector whose inner products approximate MaxSim."""

from chamfer.reducers.ball_carving import ball_carving
from chamfer.reducers.encodings import Int8Encodings, SparseEncodings
from chamfer.reducers.fixed_dimensional import FixedDimensionalEncoder
from chamfer.reducers.learned import LearnedReducer

__all__ = ["FixedDimensionalEncoder", "Int8Encodings", "LearnedReducer", "SparseEncodings", "ball_carving"]
