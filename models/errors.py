"""What the data that describe a model, a training or a data set can be wrong about."""


class SpecError(ValueError):
    """A model spec that cannot be built; the message names the key, what was found and what is allowed."""


class PlanError(ValueError):
    """A training plan that cannot be followed; the message names the key, what was found and what is allowed."""


class FeaturesError(ValueError):
    """A declared pipeline that cannot be; the message names the key, what was found and what is allowed."""


class DataError(ValueError):
    """Examples that do not fit the model; the message names the row and column."""


class CheckpointError(ValueError):
    """A checkpoint that a training cannot go on from; the message says why."""


class TfliteError(ValueError):
    """A ``.tflite`` file, or what one is to be made of, that is no good; the message says what and why."""
