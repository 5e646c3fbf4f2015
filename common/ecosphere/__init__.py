"""The Ecosphere Optimization Algorithm (EOA): the steps between two rounds.

Reading order: `membership` (`join`, for your own training script), `end_of_round` (elect, exchange, move), `exchange` (weights
across populations), `rates` (base rate and moves of a round), `species` (the moves), `forage`.
"""
