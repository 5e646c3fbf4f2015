"""Runs of the training scripts: options, training loop, record.

Reading order: `options`, `run` (data, resumption, end of a run), `loop` (one round), `record`, `eoa` (setup of EOA's scripts).
"""
