"""Everything with an equation or a message in it: the package under the experiment scripts.

Reading order: `topology` (who is who), `flat` (the model as one buffer), `comm` (the messages), `species` (the moves),
`exchange` (weights across populations), `ecosphere` (all of it as one object), `loop` (one round of training).
"""
