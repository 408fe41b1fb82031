"""Installs, upgrades and removes fedmq as services of a machine with systemd.

Runs before anything is installed: the standard library of Python 3.11 alone, and no import of fedmq.
"""
