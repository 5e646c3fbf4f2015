"""The Ecosphere Optimization Algorithm: what happens between two rounds.

Reading order: `membership` (one worker's part, and `join` for a script of your own), `election` (fitness and rates of all
workers), `exchange` (weights across populations), `rates` (base rate and moves of a round), `species` (the moves), `forage`.
"""
