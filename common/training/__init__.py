"""A run of a training script: its options, its loop, its record.

Reading order: `options`, `run` (data, resumption, the end of a run), `loop` (one round), `record`, `eoa` (what EOA's scripts
share).
"""
