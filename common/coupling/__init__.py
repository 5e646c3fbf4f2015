"""Elastic averaging, local SGD and their comparators: workers that each train their own weights, coupled now and then.

elastic         updates of a worker and of the center in elastic averaging and its comparators; pure
synchronous     elastic averaging among ranks that meet: an all-reduce, no server
local_sgd       local SGD, DiLoCo, and gradient accumulation over several steps
server          a center on server ranks, or in a window of memory, that no worker waits for
swarm_rules     a particle's move on weights: PSO-PS (our reconstruction); pure
swarm           the swarm among ranks: best places and how they travel
stability       spectral radii of elastic averaging on a quadratic, and of a swarm at rest
"""
