"""The aggregator: admits updates, folds them, and publishes new versions of the model."""
