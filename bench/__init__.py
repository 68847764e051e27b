"""Benchmarks of chamfer, run from the repository's root.

    python -m bench kernels --peers     every kernel beside its limit and its peers; figures to reach
    python -m bench search DATA --peers whole search systems on the same vectors: recall, time, memory, building
    python -m bench scale DATA          how building and searching grow with the collection
    python -m bench candidates DATA     kinds of FAISS index on the same encodings
    python -m bench reducers DATA       what reducers and variants of them find by their encodings alone
    python -m bench upgrade DATA OTHER  what a new encoder's queries find in an old one's binary codes
    python -m bench binary DATA         binary codes beside what others keep in as few bytes: recall, time, size
    python -m bench tune DATA           what tuning promises, and what other queries get
    python -m bench roofline            what this core can do at best
    python -m bench picture             docs/kernels.png, search.png and binary.png, from the results

All but the last two print a table and write a JSON file with what is needed to judge it: CPU, instruction sets, commit,
versions of the peers, thread settings, load of the machine, shapes, and how far each result was from float64.

DATA of all but `kernels` and `roofline` is "demo", the packaged collection, or a folder of real token vectors:
    docs/           tokens.i8.npy (int8, decoded as q / |q|) or tokens.npy (float16 or float32), (num_tokens, dim);
                    offsets.npy, (n + 1,): item i is rows offsets[i]:offsets[i + 1]; ids.json, n strings;
                    token_ids.npy, (num_tokens,), optional: vocabulary ids of the tokens, which TACHIOM needs
    queries/        the same
    queries.train/  the same, optional: other queries, which every system may learn from that can; without them every
                    third query is set aside for that, and is no test query
    qrels.tsv       optional: "query id, document id, grade" between tabs, a line for each judged pair

The peers of `search` do not agree on their dependencies: each has an environment of its own. $CHAMFER_PEER_PYTHON (or
--peer-python) is the pattern of their Pythons, such as peers/{name}/bin/python, {name} standing for the peer. A peer
without one is looked for in this environment; what is not installed is skipped by name. To install them:

    python -m venv peers/fastembed && peers/fastembed/bin/pip install fastembed==0.9.1 faiss-cpu numpy
    python -m venv peers/lancedb && peers/lancedb/bin/pip install lancedb==0.40.0 pyarrow numpy
    python -m venv peers/fastplaid && peers/fastplaid/bin/pip install fast-plaid==1.7.0.2110      (5 GB: torch for CUDA)
    python -m venv peers/tachiom && peers/tachiom/bin/pip install tachiom==0.4.0 numpy              (glibc 2.39 on)

LEMUR (arXiv 2601.21853) is not on PyPI, where `lemur` is something else: its own README says how to install it, with
torch, here into peers/lemur. With an older glibc (2.36 does) TACHIOM's wheel runs unpacked:

    peers/tachiom/bin/pip install numpy
    peers/tachiom/bin/pip download --no-deps --only-binary=:all: --platform manylinux_2_39_x86_64 tachiom==0.4.0
    unzip tachiom-*.whl -d "$(peers/tachiom/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')"
"""

from __future__ import annotations

import os

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "RAYON_NUM_THREADS"), "1"
)
"""Environment that keeps everybody's BLAS and thread pools to one thread."""

PEER_PYTHON = "CHAMFER_PEER_PYTHON"
"""Environment that holds the pattern of the peers' Pythons."""

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
