"""Mosquitto as fedmq wants it: configuration, access control, bridges and limits, as texts made by pure functions."""

from broker_config.generating import CONFIGURATION, DIRECTORY, files, site_files
from broker_config.names import AGGREGATOR, NameRefusedError, bridge, monitor

__all__ = ["AGGREGATOR", "CONFIGURATION", "DIRECTORY", "NameRefusedError", "bridge", "files", "monitor", "site_files"]
