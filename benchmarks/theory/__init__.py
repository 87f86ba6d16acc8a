"""The paper's theory against bases, oracles and estimators: `python -m benchmarks.theory --help`."""
