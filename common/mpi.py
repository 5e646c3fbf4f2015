"""The one import of MPI: `from common.mpi import MPI`, after the environment has been prepared for it."""

from common import launch

launch.prepare_environment()

from mpi4py import MPI  # noqa: E402  (Open MPI reads the environment when it is loaded)

__all__ = ["MPI"]
