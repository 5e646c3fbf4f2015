"""The only import of MPI: `from common.parallel.mpi import MPI`; prepares the environment first."""

from common.parallel import environment

environment.prepare_environment()
environment.prepare_mpi4py()

with environment.outside_slurm_step(), environment.on_one_node():  # Open MPI reads the environment when it is loaded
    from mpi4py import MPI

__all__ = ["MPI"]
