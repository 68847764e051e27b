"""Benchmarks of chamfer, run from the repository's root.

    python -m bench kernels --peers     every kernel beside its limit and its peers; figures to reach
    python -m bench search DATA         recall and speed of whole searches
    python -m bench roofline            what this core can do at best
    python -m bench picture             docs/kernels.png, from the results of `kernels`

The first two print a table and write a JSON file with what is needed to judge it: CPU, instruction sets, commit,
versions of the peers, thread settings, load of the machine, shapes, and how far each result was from float64.

DATA of `search` is a folder of real token vectors:
    docs/           tokens.i8.npy (int8, decoded as q / |q|) or tokens.npy (float16 or float32), (num_tokens, dim);
                    offsets.npy, (n + 1,): item i is rows offsets[i]:offsets[i + 1]; ids.json, n strings
    queries/        the same
    queries.train/  the same, optional: other queries, from which the encoder takes the queries' mean; without them
                    the test queries serve, which flatters a little
    qrels.tsv       optional: "query id, document id, grade" between tabs, a line for each judged pair
"""

from __future__ import annotations

import os

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
"""Environment that keeps everybody's BLAS and thread pools to one thread."""

BLAS_SETTINGS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Environment that makes OpenBLAS run for another processor than this one."""

removed_settings: dict[str, str] = {}
"""Those that were set, and were taken out so that NumPy and FAISS run as fast as they do elsewhere."""


def prepare_environment(*, keep_blas_settings: bool) -> None:
    """Set threads and processor of BLAS; call it before anything imports NumPy, whose BLAS reads them when it loads."""
    os.environ.update(ONE_THREAD)
    if not keep_blas_settings:
        for name in BLAS_SETTINGS:
            if name in os.environ:
                removed_settings[name] = os.environ.pop(name)
