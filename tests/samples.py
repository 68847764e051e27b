"""Token vectors for the tests: seeded, small, made where they are used."""

import numpy as np

from chamfer import RecurrentBinarizer, TokenVectors
from chamfer.recurrent import array_shapes


def unit_vectors(rng, num_tokens, dim):
    """Random directions, float32."""
    x = rng.standard_normal((num_tokens, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def positive_vectors(rng, num_tokens, dim):
    """Unit vectors without negative numbers: products do not cancel, so that a relative error means something."""
    return np.abs(unit_vectors(rng, num_tokens, dim))


def integer_vectors(rng, num_tokens, dim):
    """Numbers -3 to 3: float32 and float16 arithmetic on them is exact, in any order, and scores tie often."""
    return rng.integers(-3, 4, (num_tokens, dim)).astype(np.float32)


def ragged(make, rng, lengths, dim, dtype=np.float32):
    """A collection with items of these lengths, its vectors from one of the functions above."""
    vectors = make(rng, int(np.sum(lengths)), dim).astype(dtype)
    return TokenVectors(vectors, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


def off_centre_collection(rng, lengths, dtype=np.float32, dim=24):
    """Unit vectors in a narrow cone."""
    vectors = rng.standard_normal((sum(lengths), dim)) + 1.5
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TokenVectors(vectors.astype(dtype), np.concatenate([[0], np.cumsum(lengths)]))


def random_binarizer(dim=12, output_dimension=20, loops=1, seed=0, **parameters):
    """A binarizer of random networks with 9 hidden units."""
    rng = np.random.default_rng(seed)
    shapes = array_shapes(dim, output_dimension, loops, 9)
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    sizes = {"dim": dim, "output_dimension": output_dimension, "loops": loops}
    defaults = {"searches": [], "query_scale": 1.5, "has_scales": True}
    return RecurrentBinarizer._of(sizes | defaults | parameters, arrays)


def read_npz(path):
    """The arrays of an .npz by name, its file closed."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


class Dlpack:
    """An object that offers DLPack and nothing else."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **keywords):
        return self.array.__dlpack__(**keywords)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()
