"""Training with torch: what is learned here leaves as NumPy arrays, and the engine uses it without torch."""

from chamfer.training.binarizer import fit_binarizer
from chamfer.training.features import fit_features

__all__ = ["fit_binarizer", "fit_features"]
