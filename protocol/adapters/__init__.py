"""Shells of the protocol: the MQTT link over paho and the reading of configuration files."""
