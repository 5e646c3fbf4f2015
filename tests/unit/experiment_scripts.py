"""The experiment scripts as modules, and their command lines; their folders are no importable names."""

import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from common.training.options import parse_args

ROOT = Path(__file__).parents[2]


@cache
def script(path):
    """A script such as `EASGD/EASGD`, loaded once."""
    folder, name = path.split("/")
    sys.path.insert(0, str(ROOT / folder))
    return import_module(name)


def presets(path):
    """The options of its presets, by name."""
    module = script(path)
    return module.PRESETS_CIFAR100 if path.endswith("cifar100") else module.PRESETS


def command_line(path, options):
    """What a script reads over its preset smoke, and the names of the options that were given."""
    return parse_args(presets(path), "a test", ["--preset", "smoke", *options.split()])


def values(args, names):
    """Some of the options, by name."""
    return {name: getattr(args, name) for name in names}
