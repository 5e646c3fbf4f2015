"""The Ecosphere Optimization Algorithm (EOA): the steps between two rounds.

Reading order: `membership` (`join`, for your own training script), `election` (fitness and rates of all workers), `exchange`
(weights across populations), `rates` (base rate and moves of a round), `species` (the moves), `forage`.
"""
