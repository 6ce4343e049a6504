"""The command line: `python -m minieff train | zoo | doctor | snippet | progress`."""

import argparse
import subprocess
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors that a user can fix are one line, not a stack trace.

    >>> main(["snippet", "layerdrop"])
    # LayerDrop: skip whole layers at random in training, so that layers can be removed afterwards.
    ...
    0
    """
    parser = argparse.ArgumentParser(prog="python -m minieff", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train recipes: weights and a card beside each")
    train.add_argument("recipes", nargs="+", type=Path, metavar="zoo/NAME.toml")
    train.add_argument("--resume", action="store_true", help="skip finished runs, continue stopped ones")
    train.add_argument("--run", help="which run, for a recipe with several")
    train.add_argument(
        "--workers", type=int, default=1, help="recipes trained at the same time, one thread each"
    )
    commands.add_parser("zoo", help="print the table of trained models")
    commands.add_parser("doctor", help="check that everything the course needs is there")
    snippet = commands.add_parser("snippet", help="print the idea of a technique, to paste into your script")
    snippet.add_argument("name", help="a technique, such as layerdrop")
    snippet.add_argument("--full", action="store_true", help="all of it, as one file that needs only torch")
    commands.add_parser("progress", help="print which tasks of the exercises you have passed")
    arguments = parser.parse_args(argv)
    try:
        return globals()[f"_{arguments.command}"](arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(arguments: argparse.Namespace) -> int:
    """One recipe in this process, or a queue of several."""
    from minieff.core import zoo
    from minieff.core.recipe import read_all

    path, *more = arguments.recipes
    if not more and arguments.workers == 1 and (arguments.run or len(read_all(path)) == 1):
        zoo.make(path, arguments.run, resume=arguments.resume)
        return 0
    if arguments.run or not arguments.resume:
        raise ValueError(
            "several runs are trained in a queue that skips finished ones: add --resume, drop --run"
        )
    return int(zoo.queue(arguments.recipes, arguments.workers) > 0)


def _zoo(arguments: argparse.Namespace) -> int:
    """The table of trained models, and one for each folder."""
    from minieff.core import zoo

    print("\n\n".join(f"{folder.name}/\n{zoo.table(folder)}" for folder in zoo.folders()))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """One line per check, OK or FAIL; exit code 1 when something failed."""
    from minieff.doctor import examine

    return examine()


def _snippet(arguments: argparse.Namespace) -> int:
    """The text on standard output."""
    from minieff.snippet import full, idea

    print((full if arguments.full else idea)(arguments.name), end="")
    return 0


def _progress(arguments: argparse.Namespace) -> int:
    """One line per lesson. The exercises are part of the checkout, not of the package."""
    from minieff.core.files import ROOT

    command = "from exercises.checks.progress import table; print(table())"
    return subprocess.run([sys.executable, "-c", command], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
