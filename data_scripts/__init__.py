"""Fetch and check what the outside world holds.

Each script runs alone: `python -m data_scripts.imdb --help`.
"""
