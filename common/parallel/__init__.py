"""Processes and messages: how a job starts and ends, who is in which communicator, and what is sent.

Reading order: `topology` (communicators, devices, threads), `comm` (the collective operations of one group), `populations` (the
`--populations` grammar), `launch` (start, errors, exit codes), `machine` (cores and quotas).
"""
