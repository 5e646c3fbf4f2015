"""Hyper-parameter search over MPI, one room per concern; messages are in coordinator and worker (docs/algorithms.md).

space        what is searched                          search      the state, and every decision
strategies   grid, random, generations                 journal     what survives a kill
steady       evolution without generations             schedule    the same search on a simulated clock
tpe          Optuna's estimator                        coordinator who is told what, over ranks
pruning      which trials are stopped                  worker      trials on this rank, or with others
objective    a trial of our own scripts                checks      which spaces there can be of them
report, figures, importance: what a search leaves behind
"""
