"""The command line of `./run_all.sh`. Standard library only: help and mistakes need nothing installed.

python3 -m experiments.options --help
"""

import argparse
import fnmatch
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from common.errors import UsageError
from common.paths import data_directory, expand
from experiments.registry import PROFILES, RESULTS, Profile, load_profile

ABOUT = """Run the experiments of a profile that have no record yet, then make its tables, figures and report page.

A run is there if results/PROFILE/TABLE/runs.jsonl holds one with the script, ranks and options of the registry's row (in
profile smoke also of this commit). Runs of one rank go side by side on the cores there are; their seconds are marked as no
measurement. A failed run is reported and the others go on. An interrupted workflow goes on when the same command is given
again.
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of the scripts; exit code 2."""

    def error(self, message: str):
        """Print the message and exit."""
        print(f"error: {message} (--help lists all options)", file=sys.stderr)
        sys.exit(2)


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, Profile]:
    """The checked options and the profile they name; exits with 2 where they are wrong, with 0 after --help."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        args.results = results_folder(args.results)
        data_directory("auto")
    except UsageError as error:
        parser.error(str(error))
    profile = load_profile(args.profile, args.workers)
    if wrong := unmatched(profile, args.only):
        names = sorted({n for table, experiment in profile.experiments() for n in (table.name, experiment.name)})
        parser.error(f"profile {profile.name} has no experiment or table '{wrong[0]}'; it has: {', '.join(names)}")
    return args, profile


def make_parser() -> Parser:
    """The options of the workflow."""
    parser = Parser(prog="./run_all.sh", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)

    def positive(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"has to be a whole number of at least 1, not '{text}'")
        return int(text)

    about = " ".join(f"{name}: {words}" for name, (_, words) in PROFILES.items())
    parser.add_argument("--profile", choices=PROFILES, default="smoke", help=f"default smoke. {about}")
    parser.add_argument("--only", nargs="+", action="extend", default=[], metavar="NAME", help="experiments, tables, or globs")
    parser.add_argument("--seeds", type=positive, metavar="K", help="seeds 0 .. K-1 of every experiment (default 1; paper 5)")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="runs side by side (default: as cores; gpu, paper: 1; --slurm: 100)"
    )
    parser.add_argument("--fresh", action="store_true", help="run again what has a record")
    parser.add_argument("--list", action="store_true", help="say which experiments there are, and which have records")
    parser.add_argument("--dry-run", action="store_true", help="print the commands of the runs that have no record")
    parser.add_argument("--slurm", action="store_true", help="hand the runs to Slurm (docs/launching.md)")
    parser.add_argument("--workers", type=positive, default=8, metavar="N", help="ranks of an ecosphere (default 8)")
    parser.add_argument("--results", default=RESULTS, help="folder of the profiles (default: results/)")
    parser.add_argument("more", nargs="*", metavar="-- OPTION", help="after `--`: options for Snakemake")
    return parser


def results_folder(given: str | Path) -> Path:
    """The folder of the profiles. Raises UsageError where it cannot be one."""
    path = Path(expand(given, "--results"))
    existing = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UsageError(f"--results {path}: {existing} is not a writable folder; name another")
    return path


def unmatched(profile: Profile, only: Iterable[str]) -> list[str]:
    """The patterns of `only` that name no table and no experiment."""
    names = {name for table, experiment in profile.experiments() for name in (table.name, experiment.name)}
    return [pattern for pattern in only if not fnmatch.filter(names, pattern)]


if __name__ == "__main__":
    parse()
