"""Command line of the benchmarks. NumPy is imported after the environment that its BLAS reads is prepared."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import bench


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure chamfer beside NumPy and its peers.")
    commands = parser.add_subparsers(dest="command", required=True)
    kernels = commands.add_parser("kernels", help="MaxSim and FDE kernels, memory, import time")
    kernels.add_argument("--peers", action="store_true", help="also the peers that are installed, see bench/peers.py")
    roofline = commands.add_parser("roofline", help="what this core can do at best: arithmetic and reading")
    picture = commands.add_parser("picture", help="draw docs/kernels.png from bench/results/kernels.json")
    picture.add_argument("--results", type=Path, help="another JSON file of `kernels`")
    picture.add_argument("--output", type=Path, help="another PNG file")
    search = commands.add_parser(
        "search",
        help="recall and speed of whole searches",
        description=bench.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    search.add_argument("data", type=Path, metavar="DATA", help="folder of a collection, laid out as above")
    search.add_argument("--num-queries", type=int, help="only the first so many queries")
    search.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="of the stored documents")
    for command in (kernels, roofline):
        command.add_argument("--rounds", type=int, help="times that everything is measured (default 15, quick 2)")
    for command in (kernels, roofline, search):
        command.add_argument("--quick", action="store_true", help="tiny: to try the code, the numbers mean nothing")
        command.add_argument(
            "--output", type=Path, help="JSON file (default in bench/results; quick and roofline: none)"
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
