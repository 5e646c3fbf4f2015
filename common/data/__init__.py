"""Data sets: `sources` (by name), `dataset` (splits and batches), `augment`, `texts`, `folder` (your own images), `files`."""
