"""Shells of the agent: store, trainer, data files and clock."""
