"""Hyper-parameter search over MPI, one room per concern; only the coordinator has messages in it (docs/algorithms.md).

space        what is searched                          search      the state, and every decision
strategies   grid, random, generations                 journal     what survives a kill
steady       evolution without generations             schedule    the same search on a simulated clock
tpe          Optuna's estimator                        coordinator trials over ranks
pruning      which trials are stopped                  objective   a trial of our own scripts
"""
