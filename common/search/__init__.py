"""Hyper-parameter search over MPI; messages are sent in coordinator and worker only (docs/algorithms.md).

space         variables, scales, conditions        search       state and decisions of a search
strategies    grid, random, generations            journal      recovery after a kill
steady_state  evolution without generations        simulation   the same search on a simulated clock
tpe           Optuna's TPE                         coordinator  assignment of trials to ranks
pruning       early stopping of trials             worker       evaluation on one rank or a group
objective     training as an objective             checks       validation of a space for training
report, figures, importance: output of a search
"""
