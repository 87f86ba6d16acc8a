"""The figures of arXiv 2310.02557 and of a report on it, made anew: `python -m benchmarks.paper --help`."""
