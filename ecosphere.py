"""What a script of your own imports: `from ecosphere import join, Salsa, Search`.

    join, Membership          become a worker of an ecosphere (docs/extending.md)
    launch, world_size        print on rank 0, end the job where a rank raises; the number of ranks
    Salsa, Rules              a torch optimizer whose steps a line search finds (SaLSA/README.md)
    Space, Search, Limits, Steady, Coordinator, run_worker    hyper-parameter search over ranks (DHPO/README.md)
    build_model               the project's networks by name, to load weights.safetensors into

The code is package `common`, whose modules may change between versions; these names do not. Nothing is imported before it is
asked for: the line search and the search space start no MPI.
"""

from importlib import import_module
from typing import Any

NAMES = {  # public name: module, and its name there
    "join": ("common.ecosphere.membership", "join"),
    "Membership": ("common.ecosphere.membership", "Membership"),
    "launch": ("common.parallel.launch", ""),
    "world_size": ("common.parallel.topology", "world_size"),
    "Salsa": ("common.optim.salsa", "Salsa"),
    "Rules": ("common.optim.armijo", "Rules"),
    "Space": ("common.search.space", "Space"),
    "Search": ("common.search.search", "Search"),
    "Limits": ("common.search.search", "Limits"),
    "Steady": ("common.search.steady_state", "Steady"),
    "Coordinator": ("common.search.coordinator", "Coordinator"),
    "run_worker": ("common.search.worker", "run"),
    "build_model": ("common.models", "build_model"),
}
__all__ = list(NAMES)


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for."""
    if name not in NAMES:
        raise AttributeError(f"ecosphere has no {name}: it has {', '.join(NAMES)}")
    module, attribute = NAMES[name]
    found = import_module(module)
    return getattr(found, attribute) if attribute else found
