"""The command `chamfer`, also `python -m chamfer`."""

import sys

_EXTRA = {"typer", "rich", "tqdm"}


def main() -> None:
    """Run the command line; without its extra, say how to get it and exit with status 1."""
    try:
        from chamfer.cli import app

        app(prog_name="chamfer")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit('chamfer\'s command line needs: pip install "chamfer[cli]"')
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
