"""Elastic averaging, local SGD and their comparators: workers that each train their own weights, coupled periodically.

elastic         updates of a worker and of the center in elastic averaging and its comparators; pure
synchronous     couplings by an all-reduce: elastic averaging, local SGD, DiLoCo, gradient accumulation
server          an asynchronous center variable on server ranks, or in an RMA window
swarm_rules     a particle's move on weights: PSO-PS (our reconstruction); pure
swarm           the communication side of PSO-PS: best positions and their exchange
"""
