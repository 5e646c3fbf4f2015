"""Every table and figure as data (registry, profiles), and the workflow that runs it (`python -m experiments --help`)."""
