"""Numbers of the public TensorFlow Lite schema that our files use.

Source: ``tensorflow/compiler/mlir/lite/schema/schema.fbs`` (schema version 3) of the TensorFlow project: the position
of a field in its table is its number there, and operators, option tables and element types have the numbers of its
enumerations. A test compares them with the schema that the runtime's package carries.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

SCHEMA_VERSION = 3
FILE_IDENTIFIER = b"TFL3"
SERVING = "serving_default"
"""Key of the one signature: what runtimes and converters call the way a model is served."""

BUFFER_ALIGNMENT = 16
"""Runtimes read weights where they lie in the file, with vector instructions."""

OLD_CODES = 127
"""Operators below this number are also in the old, one-byte field, which some runtimes of microcontrollers read."""


class Operator(IntEnum):
    """``BuiltinOperator``: those that we write, all of them known to the runtime of microcontrollers."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RESHAPE = 22
    SOFTMAX = 25
    TANH = 28
    MEAN = 40
    SUB = 41
    STRIDED_SLICE = 45
    RSQRT = 76
    SQUARED_DIFFERENCE = 99
    QUANTIZE = 114


class Fused(IntEnum):
    """``ActivationFunctionType``: what an operator does to its own output."""

    NONE = 0
    RELU = 1


SAME, VALID = 0, 1
"""``Padding``."""


@dataclass(frozen=True, slots=True)
class OptionTable:
    """A table of options: its number in the union ``BuiltinOptions``, and its fields."""

    number: int
    fields: dict[str, tuple[int, str, float]]
    """By name: position in the table, kind of scalar (``int8``, ``int32``, ``bool``, ``float32``), default."""


_FUSED_ONLY: dict[str, tuple[int, str, float]] = {"fused": (0, "int8", 0)}
_POOL: dict[str, tuple[int, str, float]] = {
    "padding": (0, "int8", 0),
    "stride_w": (1, "int32", 0),
    "stride_h": (2, "int32", 0),
    "filter_w": (3, "int32", 0),
    "filter_h": (4, "int32", 0),
    "fused": (5, "int8", 0),
}
_CONV: dict[str, tuple[int, str, float]] = {
    "padding": (0, "int8", 0),
    "stride_w": (1, "int32", 0),
    "stride_h": (2, "int32", 0),
    "fused": (3, "int8", 0),
    "dilation_w": (4, "int32", 1),
    "dilation_h": (5, "int32", 1),
}
_SLICE: dict[str, tuple[int, str, float]] = {
    "begin_mask": (0, "int32", 0),
    "end_mask": (1, "int32", 0),
    "ellipsis_mask": (2, "int32", 0),
    "new_axis_mask": (3, "int32", 0),
    "shrink_axis_mask": (4, "int32", 0),
}

OPTIONS: dict[Operator, OptionTable] = {
    Operator.ADD: OptionTable(11, _FUSED_ONLY),
    Operator.AVERAGE_POOL_2D: OptionTable(5, _POOL),
    Operator.CONCATENATION: OptionTable(10, {"axis": (0, "int32", 0), "fused": (1, "int8", 0)}),
    Operator.CONV_2D: OptionTable(1, _CONV),
    Operator.DEQUANTIZE: OptionTable(38, {}),
    Operator.FULLY_CONNECTED: OptionTable(8, _FUSED_ONLY),
    Operator.MAX_POOL_2D: OptionTable(5, _POOL),
    Operator.MUL: OptionTable(21, _FUSED_ONLY),
    Operator.RESHAPE: OptionTable(17, {}),
    Operator.SOFTMAX: OptionTable(9, {"beta": (0, "float32", 0.0)}),
    Operator.MEAN: OptionTable(27, {"keep_dims": (0, "bool", 0)}),
    Operator.SUB: OptionTable(28, _FUSED_ONLY),
    Operator.STRIDED_SLICE: OptionTable(32, _SLICE),
    Operator.SQUARED_DIFFERENCE: OptionTable(76, {}),
    Operator.QUANTIZE: OptionTable(89, {}),
}
"""Operators without a line here (LOGISTIC, TANH, RSQRT) have no options."""

TENSOR_TYPES: dict[str, int] = {"float32": 0, "int32": 2, "int8": 9}
"""``TensorType``, of the element types that our files use."""

TYPES_BY_NUMBER: dict[int, np.dtype[np.generic]] = {
    0: np.dtype("float32"),
    1: np.dtype("float16"),
    2: np.dtype("int32"),
    3: np.dtype("uint8"),
    4: np.dtype("int64"),
    6: np.dtype("bool"),
    7: np.dtype("int16"),
    8: np.dtype("complex64"),
    9: np.dtype("int8"),
    10: np.dtype("float64"),
    11: np.dtype("complex128"),
    12: np.dtype("uint64"),
    15: np.dtype("uint32"),
    16: np.dtype("uint16"),
}
"""``TensorType``, of all whose elements have a fixed size of whole bytes."""

VERSIONS: dict[Operator, tuple[int, int]] = {
    Operator.ADD: (1, 2),
    Operator.AVERAGE_POOL_2D: (1, 2),
    Operator.CONCATENATION: (1, 2),
    Operator.CONV_2D: (1, 3),
    Operator.DEQUANTIZE: (2, 2),
    Operator.FULLY_CONNECTED: (1, 4),
    Operator.LOGISTIC: (1, 2),
    Operator.MAX_POOL_2D: (1, 2),
    Operator.MUL: (1, 2),
    Operator.RESHAPE: (1, 1),
    Operator.SOFTMAX: (1, 2),
    Operator.TANH: (1, 2),
    Operator.MEAN: (1, 2),
    Operator.SUB: (1, 2),
    Operator.STRIDED_SLICE: (1, 2),
    Operator.RSQRT: (1, 2),
    Operator.SQUARED_DIFFERENCE: (1, 2),
    Operator.QUANTIZE: (1, 1),
}
"""First versions of the operators that take float32, and int8: a runtime that is too old refuses by them."""
