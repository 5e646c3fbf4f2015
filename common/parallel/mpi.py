"""The one import of MPI: `from common.parallel.mpi import MPI`, after the environment has been prepared for it."""

from common.parallel import launch

launch.prepare_environment()
launch.prepare_mpi4py()

with launch.outside_slurm_step(), launch.on_one_node():  # Open MPI reads the environment when it is loaded
    from mpi4py import MPI

__all__ = ["MPI"]
