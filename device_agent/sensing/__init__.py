"""Sensors in: what topics, files and plug-ins bring, checked and turned into rows. Pure, but for ``adapters``."""
