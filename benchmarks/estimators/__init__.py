"""Errors, coverage and costs of the estimators: the tables and figures of docs/estimators."""
