"""Shells of the aggregator: SQLite store, schedule, control socket and evaluation data."""
