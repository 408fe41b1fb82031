"""Whether a ``.tflite`` file of a user's can be federated: which signatures it needs, and what they have to agree in.

``train(x, y) -> loss`` is one step on a batch, ``infer(x) -> outputs`` predicts, ``get() -> tensors`` and
``set(tensors)`` read and write what is learned. Everything else about the training is the file's.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from models.errors import SpecError, TfliteError
from models.fields import Fields
from models.layers.reading import MAX_WIDTH
from models.parameters import Layout
from models.spec import MAX_INPUTS, MAX_PARAMETERS, Task
from models.tflite.checking import examine
from models.tflite.reading import Bytes
from models.tflite.signatures import ANY, End, Signature, custom_operators, signatures_of
from models.tflite.variables import Access

KIND = "tflite"
MAX_BYTES = 64 * 2**20
"""Of a file: as much as a model may have on its way to a device."""

MAX_TENSORS = 4096
RATE = "learning_rate"
_KEYS = ("train", "infer", "get", "set")
_TASKS: tuple[Task, ...] = ("classification", "regression", "reconstruction")
_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TAKEN = frozenset({"allow_pickle", "file", "layout", "parameters", "spec", "version"})
"""Names that mean something else in an export as NPZ."""

_LABELS = ("float32", "int32", "int64")
_LONGEST = 64
_ROWS = 2
"""Dimensions of examples in rows."""

_FEWEST_CLASSES = 2
_FLEX = "Flex"

Targets: TypeAlias = Literal["labels", "one_hot", "values", "none"]
"""What ``train`` is given beside ``x``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainableSpec:
    """Which file, to the bit, and how its signatures are to be read: what a manifest carries as its model."""

    digest: str
    """SHA-256 of the file, lower-case hexadecimal."""
    size: int
    """Bytes of the file."""
    task: Task = "classification"
    logits: bool = False
    """Whether ``infer`` gives scores before the softmax, and no probabilities."""
    output: str = ""
    """Which output of ``infer`` is meant; empty: the only one, or the one called ``output``."""
    signatures: tuple[str, str, str, str] = _KEYS
    """What the file calls train, infer, get and set."""

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TrainableSpec:
        """Return the checked spec, or raise ``SpecError``."""
        fields = Fields(data, "model", SpecError)
        fields.choice("kind", (KIND,))
        digest = fields.text("digest")
        if not _DIGEST.fullmatch(digest):
            raise fields.wrong("digest", digest, "64 hexadecimal digits in lower case")
        spec = cls(digest=digest, size=fields.integer("size", 1, MAX_BYTES), **_said(fields))
        fields.finish()
        return spec

    @classmethod
    def of(cls, data: Bytes, said: Mapping[str, Any], *, besides: Sequence[str] = ()) -> TrainableSpec:
        """Return the spec of a file with what a configuration says of it; raise ``SpecError``.

        ``besides``: keys that are somebody else's.
        """
        if not 1 <= len(data) <= MAX_BYTES:
            raise SpecError(f"model: a file of {len(data)} bytes, allowed are 1 to {MAX_BYTES}")
        fields = Fields({key: value for key, value in said.items() if key not in besides}, "model", SpecError)
        fields.choice("kind", (KIND,))
        spec = cls(digest=hashlib.sha256(data).hexdigest(), size=len(data), **_said(fields))
        fields.finish()
        return spec

    def to_data(self) -> dict[str, Any]:
        """Return the spec as data, without what is as usual; ``from_data`` gives the same again."""
        data: dict[str, Any] = {"kind": KIND, "task": self.task, "digest": self.digest, "size": self.size}
        if self.logits:
            data["logits"] = True
        if self.output:
            data["output"] = self.output
        named = {key: found for key, found in zip(_KEYS, self.signatures, strict=True) if key != found}
        return data | ({"signatures": named} if named else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """A file's signatures, found to fit together."""

    layout: Layout
    """What ``get`` gives and ``set`` takes, in the order of the names."""
    x: str
    shape: tuple[int, ...]
    """Of one example."""
    rows: int
    """Examples that ``train`` takes at a time; ``ANY``."""
    infer_rows: int
    targets: Targets
    y: End | None
    rate_shape: tuple[int, ...] | None
    """Of the input ``learning_rate``; None where ``train`` takes none."""
    loss: str
    output: str
    outputs: int
    begins_anew: tuple[str, ...]
    """Variables that ``train`` changes and ``set`` does not reach: they are as in the file whenever a training begins
    or goes on."""

    @property
    def inputs(self) -> int:
        """Values of an example."""
        return math.prod(self.shape)

    @property
    def takes_rate(self) -> bool:
        """Whether the plan's learning rate is one of the inputs of ``train``."""
        return self.rate_shape is not None


def contract_of(data: Bytes, spec: TrainableSpec) -> Contract:
    """Return how to work with the file; raise ``TfliteError`` when it cannot be federated, with all that is to do."""
    # First, for what TensorFlow's own operators work on may be nothing that is read here.
    _check_operators(custom_operators(data))
    examine(data, serves=False)
    found = signatures_of(data)
    missing = [key for key in spec.signatures if key not in found]
    if missing:
        there = ", ".join(ascii(key[:_LONGEST]) for key in sorted(found)) or "none"
        raise TfliteError(
            f"it has no signature {', '.join(missing)} (it has {there}): to learn, a file needs train, infer, get and "
            "set; what else they are called is said by [model.signatures]"
        )
    train, infer, get, put = (found[key] for key in spec.signatures)
    layout = _layout(get, put)
    x = _only(infer.inputs, "infer takes", "an input: the examples")
    _check_examples(x, "infer")
    given = next((end for end in train.inputs if end.name == x.name), None)
    if given is None or given.shape[1:] != x.shape[1:] or given.type != x.type:
        raise TfliteError(f"train has to take the examples as infer does, as {x}; it takes {_listed(train.inputs)}")
    output = _output(infer.outputs, spec.output)
    y, rate = _besides(train, x.name)
    outputs = math.prod(output.shape[1:])
    _check_outputs(spec.task, outputs, math.prod(x.shape[1:]))
    contract = Contract(
        layout=layout,
        x=x.name,
        shape=x.shape[1:],
        rows=given.shape[0],
        infer_rows=x.shape[0],
        targets=_targets(spec.task, y, outputs, given.shape[0]),
        y=y,
        rate_shape=None if rate is None else rate.shape,
        loss=_loss(train.outputs),
        output=output.name,
        outputs=outputs,
        begins_anew=_begins_anew(train.variables, put.variables),
    )
    _check_first_values(get.variables, put.variables, {"infer": infer.variables, "train": train.variables})
    return contract


def _said(fields: Fields) -> dict[str, Any]:
    """Read what a configuration may say."""
    said: dict[str, Any] = {
        "task": cast("Task", fields.choice("task", _TASKS, _TASKS[0])),
        "output": fields.text("output") if fields.has("output") else "",
        "signatures": _KEYS,
    }
    if said["task"] == "classification":
        said["logits"] = fields.boolean("logits", default=False)
    if fields.has("signatures"):
        named = Fields(fields.table("signatures"), "model.signatures", SpecError)
        said["signatures"] = tuple(named.text(key) if named.has(key) else key for key in _KEYS)
        named.finish()
        if len(set(said["signatures"])) < len(_KEYS) or max(map(len, said["signatures"])) > _LONGEST:
            raise SpecError(f"model.signatures: four different names of at most {_LONGEST} characters are allowed")
    if len(said["output"]) > _LONGEST:
        raise fields.wrong("output", said["output"], f"a name of at most {_LONGEST} characters")
    return said


def _check_operators(names: Sequence[str]) -> None:
    flex = [name for name in names if name.startswith(_FLEX)]
    if flex:
        raise TfliteError(
            f"it needs operators of TensorFlow itself ({_shown(flex)}), which TFLite's runtimes for devices do not "
            "have: convert it with TFLITE_BUILTINS only; where gradients bring them in (Flex...Grad), write those "
            "gradients with operators that TFLite has"
        )
    if names:
        raise TfliteError(f"it needs operators of somebody's own ({_shown(names)}), which devices do not have")


def _layout(get: Signature, put: Signature) -> Layout:
    if get.inputs:
        raise TfliteError(
            f"get takes {_listed(get.inputs)}: it has to take nothing and to give the tensors that are learned "
            "(save and restore of TensorFlow's guide go by way of a file on the disk, and will not do)"
        )
    if not 1 <= len(get.outputs) <= MAX_TENSORS:
        raise TfliteError(f"get gives {len(get.outputs)} tensors, allowed are 1 to {MAX_TENSORS}")
    for end in get.outputs:
        if end.type != "float32" or ANY in end.shape:
            raise TfliteError(f"get gives {end}: what is federated has to be float32, of a fixed shape")
        if not _NAME.fullmatch(end.name) or end.name in _TAKEN:
            taken = ", ".join(sorted(_TAKEN))
            raise TfliteError(
                f"get gives {end}: allowed in names are letters, digits and _ . : / -, and no name is one of {taken}"
            )
    if {(end.name, end.shape, end.type) for end in get.outputs} != {
        (end.name, end.shape, end.type) for end in put.inputs
    }:
        only = [end for end in get.outputs if end not in put.inputs], [e for e in put.inputs if e not in get.outputs]
        raise TfliteError(
            f"set has to take what get gives, with the same names, shapes and types; only get has {_listed(only[0])}, "
            f"only set {_listed(only[1])}"
        )
    layout = Layout(tuple((end.name, end.shape) for end in get.outputs))
    if not 1 <= layout.size <= MAX_PARAMETERS:
        raise TfliteError(f"get gives {layout.size} values, allowed are 1 to {MAX_PARAMETERS}")
    return layout


def _begins_anew(train: Access, put: Access) -> tuple[str, ...]:
    return tuple(sorted(name or "without a name" for name in train.assigned - put.assigned))


def _check_first_values(get: Access, put: Access, others: Mapping[str, Access]) -> None:
    """Refuse what would begin with whatever is in a device's memory: runtimes give that out, and say nothing."""
    without = {"get": get.read - get.begun}
    without |= {key: found.read - found.begun - put.begun - put.assigned for key, found in others.items()}
    for key, names in without.items():
        if wrong := sorted(names - {""}):
            raise TfliteError(
                f"{key} reads variables that the file gives no first values ({_shown(wrong)}): a training would begin "
                "with whatever is in the memory. TensorFlow's converter leaves out those that only a Keras model "
                "holds: have the module hold them, too, by self.kept = [v.value for v in model.variables]"
            )


def _check_examples(x: End, who: str) -> None:
    if x.type != "float32" or len(x.shape) < _ROWS or ANY in x.shape[1:] or x.shape[0] == 0:
        raise TfliteError(f"{who} takes {x}: examples are float32, (any, ...) or (rows, ...), of a fixed shape each")
    if not 1 <= math.prod(x.shape[1:]) <= MAX_INPUTS:
        raise TfliteError(f"{who} takes {x}: an example may have 1 to {MAX_INPUTS} values")


def _output(ends: Sequence[End], wanted: str) -> End:
    name = wanted or ("output" if len(ends) > 1 else ends[0].name if ends else "")
    output = next((end for end in ends if end.name == name), None)
    if output is None:
        raise TfliteError(f"infer gives {_listed(ends)}, and no {name or 'output'}: say which one by model.output")
    if output.type != "float32" or not output.shape or ANY in output.shape[1:]:
        raise TfliteError(f"infer gives {output}: that has to be float32, a row for each example, of a fixed width")
    return output


def _besides(train: Signature, x: str) -> tuple[End | None, End | None]:
    rest = [end for end in train.inputs if end.name != x]
    rate = next((end for end in rest if end.name == RATE), None)
    if rate is not None:
        if rate.type != "float32" or math.prod(rate.shape) != 1:
            raise TfliteError(f"train takes {rate}: that has to be one float32 number")
        rest.remove(rate)
    if len(rest) > 1:
        raise TfliteError(f"train takes {_listed(rest)} beside {x}: allowed are the targets, and {RATE}")
    return (rest[0] if rest else None), rate


def _targets(task: Task, y: End | None, outputs: int, rows: int) -> Targets:
    if y is None:
        if task != "reconstruction":
            raise TfliteError(f"train takes no targets, {task} needs them: train(x, y)")
        return "none"
    if y.shape and y.shape[0] == rows:
        width = math.prod(y.shape[1:])
        if task == "classification" and y.type in _LABELS:
            if width == 1:
                return "labels"
            if y.shape[1:] == (outputs,):
                return "one_hot"
        elif task != "classification" and y.type == "float32" and width == outputs:
            return "values"
    rows_said = "any" if rows == ANY else rows
    wanted = {
        "classification": f"labels ({rows_said}) or ({rows_said}, 1), or one-hot ({rows_said}, {outputs}), of "
        + " or ".join(_LABELS),
        "regression": f"float32 values, {outputs} for each of {rows_said} rows",
        "reconstruction": f"the {outputs} values of each of {rows_said} examples in float32, or nothing",
    }
    raise TfliteError(f"train takes {y} beside the examples: for {task} that has to be {wanted[task]}")


def _loss(ends: Sequence[End]) -> str:
    loss = next((end for end in ends if end.name == "loss"), ends[0] if len(ends) == 1 else None)
    if loss is None or loss.type != "float32":
        raise TfliteError(f"train gives {_listed(ends)}: it has to give the loss, as float32, under the name loss")
    return loss.name


def _check_outputs(task: Task, outputs: int, inputs: int) -> None:
    if task == "reconstruction" and outputs != inputs:
        raise TfliteError(f"infer makes {outputs} values of {inputs}: a reconstruction has as many")
    if task == "classification" and outputs < _FEWEST_CLASSES:
        raise TfliteError("infer gives one value for an example: a classification has one for each class, at least two")
    if not 1 <= outputs <= (MAX_INPUTS if task == "reconstruction" else MAX_WIDTH):
        raise TfliteError(f"infer gives {outputs} values for an example, allowed are 1 to {MAX_WIDTH}")


def _only(ends: Sequence[End], who: str, what: str) -> End:
    if len(ends) != 1:
        raise TfliteError(f"{who} {_listed(ends)}: it has to have {what}, and nothing else")
    return ends[0]


def _listed(ends: Sequence[End]) -> str:
    return _shown([str(end) for end in ends]) or "nothing"


def _shown(names: Sequence[str]) -> str:
    most = 8
    return ", ".join(ascii(name[: 2 * _LONGEST])[1:-1] for name in names[:most]) + (
        ", ..." if len(names) > most else ""
    )
