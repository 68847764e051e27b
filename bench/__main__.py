"""Command line of the benchmarks. NumPy is imported after the environment that its BLAS reads is prepared."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import bench

PARTS = ("learned", "fde", "tokens", "index")
"""Of `binary`."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure chamfer beside NumPy and its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    kernels = commands.add_parser("kernels", help="MaxSim and FDE kernels, memory, import time")
    kernels.add_argument("--peers", action="store_true", help="also the peers that are installed, see bench/peers.py")
    kernels.add_argument("--only", nargs="+", metavar="NAME", help="only groups whose name contains one of these")
    roofline = commands.add_parser("roofline", help="what this core can do at best: arithmetic and reading")
    picture = commands.add_parser("picture", help="draw docs/{kernels,search,binary}.png from bench/results")
    picture.add_argument("--results", type=Path, nargs="+", help="other JSON files, of `kernels`, `search` or `binary`")
    picture.add_argument("--output", type=Path, help="another PNG file, if one picture is drawn")
    search = commands.add_parser(
        "search",
        help="whole search systems on the same vectors",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    search.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folders laid out as above, or demo")
    search.add_argument("--peers", action="store_true", help="also the peers that are installed, see above")
    search.add_argument("--only", nargs="+", metavar="NAME", help="only systems whose name contains one of these")
    search.add_argument("--peer-python", metavar="PATTERN", help=f"instead of ${bench.PEER_PYTHON}, see above")
    search.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="to search with (default 1 2)")
    search.add_argument("--num-queries", type=int, help="only the first so many queries")
    search.add_argument("--point-seconds", type=float, help="of searches at one point; then it is asked no more (60)")
    search.add_argument("--build-seconds", type=float, default=1800, help="to build one system (default 1800)")
    scale = commands.add_parser("scale", help="how building and searching grow with the collection")
    scale.add_argument("data", type=Path, metavar="DATA", help="folder laid out as `search --help` says, or demo")
    scale.add_argument("--documents", type=int, nargs="+", help="sizes; a larger one than DATA is grown from it")
    scale.add_argument("--threads", type=int, default=2, help="to build with; searches are timed on one (default 2)")
    tune = commands.add_parser("tune", help="whether Index.tune keeps its word on queries that it did not see")
    tune.add_argument("data", type=Path, nargs="+", metavar="DATA", help="folders laid out as `search --help` says")
    tune.add_argument("--splits", type=int, default=20, help="random halves of the queries (default 20)")
    tune.add_argument("--threads", type=int, default=2, help="to build and tune with (default 2)")
    candidates = commands.add_parser("candidates", help="kinds of FAISS index on the same encodings")
    candidates.add_argument(
        "data", type=Path, nargs="+", metavar="DATA", help="folders as `search --help` says, or demo"
    )
    candidates.add_argument(
        "--reducers", nargs="+", choices=["learned", "fde"], default=["learned"], help="what encodes (default learned)"
    )
    candidates.add_argument("--num-queries", type=int, default=150, help="so many, drawn at random (default 150)")
    candidates.add_argument("--threads", type=int, default=2, help="to encode with; the rest is on one (default 2)")
    updates = commands.add_parser("updates", help="what a changing index costs: add, delete, filter, grow")
    updates.add_argument("data", type=Path, metavar="DATA", help="folder as `search --help` says, or demo")
    updates.add_argument("--file-bytes", type=int, help="also build so large a file of vectors in bounded memory")
    updates.add_argument("--budget", default="1GB", help="that memory (default 1GB)")
    reducers = commands.add_parser("reducers", help="what reducers find by their encodings alone")
    reducers.add_argument("data", type=Path, nargs="+", metavar="DATA", help="as of `search`")
    reducers.add_argument("--only", nargs="+", metavar="NAME", help="only reducers whose name contains one of these")
    reducers.add_argument("--trained", action="store_true", help="also features that torch trains, for minutes")
    upgrade = commands.add_parser("upgrade", help="what a new encoder's queries find in an old one's binary codes")
    upgrade.add_argument("data", type=Path, metavar="DATA", help="the old encoder's vectors, as of `search`")
    upgrade.add_argument("other", type=Path, metavar="OTHER", help="the new one's, of the same documents and queries")
    upgrade.add_argument("--bits", type=int, default=1024, help="of a code (default 1024)")
    upgrade.add_argument("--loops", type=int, default=1, help="of the binarizers (default 1: two bits a number)")
    upgrade.add_argument("--output-dimension", type=int, default=512, help="of the reducers (default 512)")
    upgrade.add_argument("--threads", type=int, default=2, help="to fit and search with (default 2)")
    binary = commands.add_parser("binary", help="binary codes beside what others keep in as few bytes")
    binary.add_argument("data", type=Path, nargs="+", metavar="DATA", help="as of `search`")
    binary.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=f"of {', '.join(PARTS)} (default all)")
    binary.add_argument("--only", nargs="+", metavar="NAME", help="only methods whose name contains one of these")
    for command in (kernels, roofline):
        command.add_argument("--rounds", type=int, help="times that everything is measured (default 15, quick 2)")
    for command in (kernels, roofline, search, scale, tune, candidates, updates, reducers, upgrade, binary):
        command.add_argument("--quick", action="store_true", help="tiny: to try the code, the numbers mean nothing")
        command.add_argument(
            "--output",
            type=Path,
            help="JSON file (default in bench/results; quick, only and roofline: none); of several DATA a folder",
        )
        command.add_argument(
            "--keep-blas-settings",
            action="store_true",
            help=f"leave {' and '.join(bench.BLAS_SETTINGS)} as they are; they are removed, for a fair NumPy",
        )
    arguments = vars(parser.parse_args())
    bench.prepare_environment(keep_blas_settings=arguments.pop("keep_blas_settings", False))
    import_module(f"bench.{arguments.pop('command')}").run(**arguments)


if __name__ == "__main__":
    main()
