"""Data sets: `registry` (by name), `sources` (reading), `dataset` (splits, batches), `augment`, `texts`, `folder`, `files`."""
