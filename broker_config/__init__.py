"""Mosquitto configuration that fedmq ships, readable as package data."""
