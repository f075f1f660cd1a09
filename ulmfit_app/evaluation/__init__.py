"""Arrays in; numbers, tables and figures out.

Nothing here knows what kind of model made the probabilities.
"""
