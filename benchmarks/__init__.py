"""Measurements: against peers, against theory, and the tables of the documentation."""
