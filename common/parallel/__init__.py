"""Processes and communication: start and end of a job, communicators, collective operations.

Reading order: `topology` (communicators, devices, threads), `comm` (the collective operations of one group), `populations` (the
`--populations` grammar), `launch` (start, errors, exit codes), `machine` (cores and quotas).
"""
