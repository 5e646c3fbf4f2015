"""Packed records to tables, figures, a report page and the tables in READMEs; imports neither torch nor MPI.

experiments.registry (what belongs to which table)  +  results/PROFILE/TABLE/runs.jsonl, metrics.csv.gz
  -> records.py (rows: means over seeds)  ->  one module per kind of table  ->  Section  ->  Markdown, HTML, READMEs
"""
