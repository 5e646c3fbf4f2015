"""Elastic averaging, local SGD and their comparators: workers that each train their own weights, coupled now and then.

rules           what a worker and a centre do to their weights; pure
synchronous     the same for ranks that meet (an all-reduce, no server)
local           local SGD, DiLoCo, and gradients that are gathered: workers that meet after every n-th step
server          where a centre lives that nobody waits for: server ranks, or a window of memory
tree            EASGD on a tree of ranks (unverified)
swarm           a particle's move on weights: PSO-PS (our reconstruction); pure
swarming        the same among ranks: who is best, and what everybody then holds
run             a run whose centre is judged in the place of its workers
swarm_run       a run whose workers are particles
theory          what is known of all this on a quadratic, and of a swarm at rest
"""
