"""The agent on a device: fetches models, trains them on local data, reports updates that cannot get lost."""
