"""Weight optimizers: `bases` (by name), `sam`, `armijo` and `salsa` (line search), `weight_optimizer` (a worker's step)."""
