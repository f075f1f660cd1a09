"""A run's classifier behind HTTP: a page for people, JSON for programs.

requests    what clients may send and what they get, its limits, and how it is refused
batching    one thread per model, which takes the texts of all requests together
versions    the models that answer, and which of them a text goes to
card        what a model is: labels, metrics with intervals, versions, notes
telemetry   counts and times for Prometheus
records     files of JSON lines: feedback, and the log of answers
uploads     a CSV in, the CSV with predictions out
answers     what models said, as it is sent and as it is written down
api         predictions, explanations, feedback
state       what a server says of itself
pages       the page, the reports of the runs
guard       what holds for every answer
connections the socket, slow clients, a stop that answers what is in flight
description openapi.json
reading     what was recorded, read again
comparing   what a log says about two versions
compared    that, in words
"""
