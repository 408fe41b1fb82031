"""The operator's commands: demo, monitor, init."""
