"""Shape and type of every tensor, and the value of those that depend on no input, without running the network.

ONNX's own inference, applied node by node, is complete once the values of shape arithmetic are known; those are
computed as they are met. Only what it has no answer for (operators of other domains, loops, data-dependent shapes) is
run, that node alone, on random inputs. An operator that onnxruntime lacks is opaque: its outputs have the shapes that
the file or the caller declares, or else, as long as nothing contradicts it, its input's.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
import onnx
from onnx import numpy_helper

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.graph.contradictions import refuse_contradiction
from netadapt_onnx.graph.node_inference import infer_types, returned, run_possible
from netadapt_onnx.graph.nodes import READS_SHAPE_ONLY, domain_of, is_standard, node_name, reads, reads_from_outside
from netadapt_onnx.graph.passes.pipeline import normalise_nodes
from netadapt_onnx.graph.runtime import Arrays, random_inputs
from netadapt_onnx.graph.shapes import Shape, Spec, Specs, dtype_of, spec_bytes
from netadapt_onnx.graph.single_node import SingleNodes

READS_TYPE_OF_SECOND = {"CastLike"}
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
# Values up to this size are computed when met; larger ones (weights in another layout, grids) when asked for.
SMALL_BYTES = 1 << 16
# Numpy's kind of bfloat16, 4-bit integers and the like.
NOT_NUMPYS = "V"
STRINGS = "O"
# What would be computed of a model of a hundred bytes must not fill the memory: larger constants stay in the graph.
LARGEST_BYTES = 1 << 27
# Nor must thousands of constants of that size: beyond this, and some times the file's own weights, they stay as well.
LARGEST_TOTAL_BYTES = 1 << 30
WEIGHTS_OVER = 3
# What inference may look at: targets, axes, sizes. Never weights.
VISIBLE_ELEMENTS = 256


class Evaluation:
    """All tensors of a sorted graph at the input shapes `specs`.

    Attributes:
        tensor_specs: shape and element type of every tensor that has a known one.
        tainted: tensors whose values depend on inputs, or are too large to compute.
        opaque: outputs of operators that cannot be run, and why.
        failed: outputs of nodes whose run failed.
        assumed: outputs that were assumed to have their first input's shape.
        uncertain: tensors whose shape may depend on the data.
        unfinished: messages about runs that a bound ended.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        initializers: Mapping[str, onnx.TensorProto],
        specs: Specs,
        declared: Specs,
        single: SingleNodes,
        *,
        assume: bool = True,
    ) -> None:
        """Evaluate the graph of `proto`.

        Args:
            proto: the model, its nodes sorted; it need not hold its initializers.
            initializers: the constants by name.
            specs: shape and element type of every input.
            declared: those that the file declares of other tensors, for operators that cannot be run.
            single: runs single nodes.
            assume: whether outputs of such operators without a declared shape get that of their first input.

        Raises:
            NetadaptError: (`unrunnable`, with the node) where shapes contradict each other.
        """
        self.tensor_specs: dict[str, Spec] = {}
        self.tainted: set[str] = set()
        self.opaque: dict[str, str] = {}
        self.failed: set[str] = set()
        self.assumed: list[str] = []
        self.uncertain: set[str] = set()
        self._types: dict[str, onnx.TypeProto] = {}
        self._visible_values: dict[str, onnx.TensorProto] = {}
        self._values: Arrays = {}
        # What sizes that may depend on the data were when they were sampled: shapes follow from them, constants never.
        self._samples: Arrays = {}
        self._initializers = initializers
        self._declared = declared
        self._single = single
        self._assume = assume
        self.unfinished: dict[str, None] = {}
        self._opsets = list(proto.opset_import)
        self._producer = {name: node for node in proto.graph.node for name in node.output if name}
        for name, (shape, dtype) in specs.items():
            self._record_spec(name, (shape, dtype))
            self.tainted.add(name)
        for value in proto.graph.input:
            if value.name not in specs and value.name not in initializers:
                self._types[value.name] = value.type
                self.tainted.add(value.name)
        for tensor in initializers.values():
            self._record_type(tensor.name, tuple(tensor.dims), tensor.data_type)
            if tensor.data_location == onnx.TensorProto.EXTERNAL:  # its values are not loaded
                self.tainted.add(tensor.name)
            elif prod(tensor.dims) <= VISIBLE_ELEMENTS and tensor.data_type != onnx.TensorProto.STRING:
                self._visible_values[tensor.name] = tensor
        weights = sum(self._bytes(name) for name in initializers)
        self._allowed_bytes = LARGEST_TOTAL_BYTES + WEIGHTS_OVER * weights
        for node in proto.graph.node:
            self._visit(node)

    # -- values ------------------------------------------------------------------------------------------------------

    def has_value(self, name: str) -> bool:
        """Whether the output of a node depends on no input's values, so that it has one value."""
        return name in self._producer and name in self.tensor_specs and name not in self.tainted

    def value(self, name: str) -> np.ndarray:
        """The value of an initializer or of a tensor that has one; computed now if it is large."""
        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        pending = [name]
        while pending:
            if pending[-1] in self._values:
                pending.pop()
                continue
            node = self._producer[pending[-1]]
            needs = [n for n in _valued_reads(node) if n not in self._values and n not in self._initializers]
            if needs:
                pending += needs
            else:
                self._compute(node)
        return self._values[name]

    def _compute(self, node: onnx.NodeProto, *, bounded: bool = False) -> None:
        feeds = {name: self._value_of(name) for name in _valued_reads(node)}
        for name in set(node.input) - feeds.keys() - {""}:  # only its type is read
            feeds[name] = np.zeros((), self.tensor_specs[name][1])
        self._values |= self._run(node, feeds, bounded=bounded)

    def _run(self, node: onnx.NodeProto, feeds: Arrays, *, bounded: bool = True) -> Arrays:
        """What a node puts out, but for sequences and the like."""
        results = self._single.run(node, feeds, bounded=bounded)
        return {name: value for name, value in results.items() if isinstance(value, np.ndarray)}

    def _value_of(self, name: str) -> np.ndarray:
        return self._values[name] if name in self._values else numpy_helper.to_array(self._initializers[name])

    # -- shapes ------------------------------------------------------------------------------------------------------

    def _record_spec(self, name: str, spec: Spec) -> None:
        self._record_type(name, spec[0], onnx.helper.np_dtype_to_tensor_dtype(spec[1]))

    def _record_type(self, name: str, shape: Shape, code: int) -> None:
        self._types[name] = onnx.helper.make_tensor_type_proto(code, shape)
        if code != onnx.TensorProto.UNDEFINED:
            self.tensor_specs[name] = (shape, dtype_of(code))

    def _visit(self, node: onnx.NodeProto) -> None:
        names = list(dict.fromkeys(reads(node)))
        outputs = [name for name in node.output if name]
        if is_standard(node, *READS_SHAPE_ONLY) and node.input[0] in self.tensor_specs:
            if node.input[0] not in self.uncertain:
                self._record_value(outputs[0], self._dimensions(node))
                return
            self.tainted.update(outputs)
            self._samples[outputs[0]] = self._dimensions(node)
        valued_reads = _valued_reads(node)
        if node.op_type in RANDOM or not self.tainted.isdisjoint(valued_reads):
            self.tainted.update(outputs)
        if not self.uncertain.isdisjoint(names):
            self.uncertain.update(outputs)
        missing = next((name for name in names if name not in self._types), None)
        if missing is not None:
            self._declare_or_assume(node, self.opaque.get(missing, f"the shape of '{missing}' is not known"))
            return
        refuse_contradiction(node, self.tensor_specs, self._small_value)
        complete = self._infer(node, names)
        size = self._taint_by_type_and_size(names, outputs)
        if self._compute_with_samples(node, valued_reads):
            return
        valued = self.tainted.isdisjoint(outputs) and all(self._is_available(name) for name in valued_reads)
        if valued and (not complete or size <= SMALL_BYTES):
            self._evaluate(node, outputs, bounded=not complete)
        elif not complete and sum(map(self._bytes, names)) <= LARGEST_BYTES and {*names} <= self.tensor_specs.keys():
            self._sample(node, names, outputs)
        elif not complete:
            self._declare_or_assume(node, f"the shapes of {node.op_type} ('{node_name(node)}') are not known")

    def _taint_by_type_and_size(self, reads: list[str], outputs: list[str]) -> int:
        """Let outputs stay in the graph whose type or size no constant may have; returns their size in bytes."""
        kinds = {name: self.tensor_specs[name][1].kind for name in [*reads, *outputs] if name in self.tensor_specs}
        strings = any(kinds.get(name) == STRINGS for name in outputs)  # of any length, and no shape depends on them
        size = sum(map(self._bytes, outputs))
        # onnxruntime takes and gives no arrays of types that are not numpy's.
        if NOT_NUMPYS in kinds.values() or strings or size > min(LARGEST_BYTES, self._allowed_bytes):
            self.tainted.update(outputs)
        elif self.tainted.isdisjoint(outputs):
            self._allowed_bytes -= size
        return size

    def _dimensions(self, node: onnx.NodeProto) -> np.ndarray:
        shape = self.tensor_specs[node.input[0]][0]
        if node.op_type == "Size":
            return np.array(prod(shape), np.int64)
        ends = {a.name: a.i for a in node.attribute}
        return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)

    def _record_value(self, name: str, value: np.ndarray) -> None:
        self._values[name] = value
        self._record_spec(name, (value.shape, value.dtype))
        if value.size <= VISIBLE_ELEMENTS and value.dtype.kind in "iufb":
            self._visible_values[name] = numpy_helper.from_array(value, name)

    def _is_available(self, name: str) -> bool:
        return name in self._values or (name in self._initializers and self._bytes(name) <= SMALL_BYTES)

    def _small_value(self, name: str) -> np.ndarray | None:
        return self._value_of(name) if self._is_available(name) else None

    def _bytes(self, name: str) -> int:
        return spec_bytes(self.tensor_specs[name]) if name in self.tensor_specs else 0

    def _infer(self, node: onnx.NodeProto, reads: list[str]) -> bool:
        """ONNX's inference for one node; False if it leaves a dimension open."""
        types = {name: self._types[name] for name in reads}
        values = {name: self._visible_values[name] for name in reads if name in self._visible_values}
        inferred = infer_types(node, types, values, self._opsets)
        if inferred is None:
            return False
        complete = True
        for name in filter(None, node.output):
            shape = _static_shape(inferred[name]) if name in inferred else None
            if name in inferred and not inferred[name].HasField("tensor_type"):
                self._types[name] = inferred[name]  # a sequence or an optional: no shape of its own, and no constant
                self.tainted.add(name)
            elif shape is not None and min(shape, default=0) < 0:
                message = f"'{name}' would have the shape {shape}"
                raise NetadaptError(message, node=node_name(node), code="unrunnable")
            elif shape is None:
                complete = False
                if name in inferred:
                    self._types[name] = inferred[name]
            else:
                self._record_type(name, shape, inferred[name].tensor_type.elem_type)
        return complete

    def _evaluate(self, node: onnx.NodeProto, outputs: list[str], *, bounded: bool) -> None:
        try:
            self._compute(node, bounded=bounded)
        except NetadaptError as error:
            self.tainted.update(outputs)  # a type that onnxruntime cannot compute with: it stays in the graph
            self._declare_or_assume(node, self._reason_of_bound(error) or _missing_operator(node))
            return
        for name in outputs:
            if name in self._values:
                self._record_value(name, self._values[name])
        if sum(map(self._bytes, outputs)) > LARGEST_BYTES:  # which only the run has shown
            self.tainted.update(outputs)
            for name in outputs:
                self._values.pop(name, None)

    def _reason_of_bound(self, error: NetadaptError) -> str | None:
        """The message for a run that a bound ended; None for other failures."""
        if error.code != "too-large":
            return None
        self.unfinished[error.message] = None
        return error.message

    def _sample(self, node: onnx.NodeProto, reads: list[str], outputs: list[str]) -> None:
        """Shapes from one run on random inputs. What ONNX cannot infer may depend on the data: then it is uncertain."""
        values = {name: self._value_of(name) for name in reads if self._is_available(name)}
        values |= {name: self._samples[name] for name in reads if name in self._samples}
        others = {name: self.tensor_specs[name] for name in reads if name not in values}
        feeds = {**random_inputs(others), **values}
        try:
            decided = bool(node.input) and node.input[0] in values
            results = run_possible(node, feeds, decided, lambda fed: self._run(node, fed))
        except NetadaptError as error:
            self.failed.update(outputs)
            for name, spec in returned(node, self._branch_specs):
                self._record_spec(name, spec)
                self.uncertain.add(name)
            if {*outputs} <= self.tensor_specs.keys():
                return
            if is_standard(node) and not onnx.defs.has(node.op_type):
                message = f"neither ONNX nor onnxruntime has an operator {node.op_type}"
                raise NetadaptError(message, node=node_name(node), code="unloadable") from error
            reason = _missing_operator(node) if error.code == "unloadable" else error.message
            self._declare_or_assume(node, self._reason_of_bound(error) or reason)
            return
        if onnx.defs.has(node.op_type, domain_of(node)):
            self.uncertain.update(outputs)
        for name, value in results.items():
            self._record_spec(name, (value.shape, value.dtype))

    def _branch_specs(self, body: onnx.GraphProto) -> Specs:
        """Shapes of the tensors of a branch."""
        model = onnx.ModelProto(opset_import=self._opsets)
        model.graph.CopyFrom(body)
        normalise_nodes(model)
        outer = [name for name in reads_from_outside(body) if name in self._types]
        constants = {name: self._initializers[name] for name in outer if name in self._initializers}
        constants |= {name: numpy_helper.from_array(self._values[name], name) for name in outer if name in self._values}
        constants |= {tensor.name: tensor for tensor in model.graph.initializer}
        specs = {name: self.tensor_specs[name] for name in outer if name in self.tensor_specs and name not in constants}
        return Evaluation(model, constants, specs, {}, self._single, assume=self._assume).tensor_specs

    def _compute_with_samples(self, node: onnx.NodeProto, reads: list[str]) -> bool:
        """Compute a node from sampled sizes; whether the shapes of its outputs are known by that."""
        sampled = {name: self._samples[name] for name in reads if name in self._samples}
        others = [name for name in reads if name not in sampled]
        if not sampled or not all(map(self._is_available, others)):
            return False
        try:
            results = self._run(node, sampled | {name: self._value_of(name) for name in others})
        except NetadaptError:
            return False
        for name, value in results.items():
            self._record_spec(name, (value.shape, value.dtype))
            self.uncertain.add(name)
            if value.nbytes <= SMALL_BYTES:
                self._samples[name] = value
        return True

    def _declare_or_assume(self, node: onnx.NodeProto, reason: str) -> None:
        """The shapes of the outputs are declared, assumed, or not known at all; their values never."""
        outputs = [name for name in node.output if name]
        first = next((self.tensor_specs[name] for name in node.input if name in self.tensor_specs), None)
        self.tainted.update(outputs)
        for name in outputs:
            if name in self.tensor_specs:
                continue
            self.opaque[name] = reason
            if name in self._declared:
                self._record_spec(name, self._declared[name])
            elif self._assume and first is not None and name not in self._types and not is_standard(node):
                self._record_spec(name, first)
                self.assumed.append(name)
                self.uncertain.add(name)


def _valued_reads(node: onnx.NodeProto) -> list[str]:
    """The tensors whose values a node reads, its subgraphs included."""
    names = node.input[:1] if node.op_type in READS_TYPE_OF_SECOND else reads(node)
    return list(dict.fromkeys(names))


def _missing_operator(node: onnx.NodeProto) -> str:
    return f"onnxruntime has no {node.domain + '::' if node.domain else ''}{node.op_type} ('{node_name(node)}')"


def _static_shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    if not kind.tensor_type.elem_type or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
