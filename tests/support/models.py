"""Small models that every test may use: seeded random weights, biases and BatchNorm statistics (defaults hide errors).

Layers are named (`conv1`, `conv2`, ...), so group names are known. Each builder says what its topology is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


class Builder:
    """Collects nodes and initializers; `model` makes a checked ModelProto of them."""

    def __init__(self, seed: int = 0, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._counts: dict[str, int] = {}

    def name(self, prefix: str) -> str:
        self._counts[prefix] = self._counts.get(prefix, 0) + 1
        return f"{prefix}{self._counts[prefix]}"

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, name: str, shape: Sequence[int], fan_in: int | None = None) -> str:
        scale = 1.0 if fan_in is None else np.sqrt(2.0 / fan_in)
        return self.constant(name, (self.rng.standard_normal(tuple(shape)) * scale).astype(np.float32))

    def node(
        self, op: str, inputs: Sequence[str], name: str | None = None, output: str | None = None, **attributes: object
    ) -> str:
        name = name or self.name(op.lower())
        output = output or f"{name}_out"
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=name, **attributes))
        return output

    def conv(
        self,
        x: str,
        cin: int,
        cout: int,
        kernel: int = 3,
        *,
        group: int = 1,
        stride: int = 1,
        bias: bool = True,
        name: str | None = None,
    ) -> str:
        name = name or self.name("conv")
        inputs = [x, self.random(f"{name}.weight", (cout, cin // group, kernel, kernel), cin // group * kernel**2)]
        if bias:
            inputs.append(self.random(f"{name}.bias", (cout,)))
        pad = kernel // 2
        return self.node(
            "Conv", inputs, name, kernel_shape=[kernel] * 2, pads=[pad] * 4, strides=[stride] * 2, group=group
        )  # fmt: skip

    def batchnorm(self, x: str, channels: int) -> str:
        name = self.name("bn")
        rng = self.rng
        values = {
            "scale": rng.uniform(0.5, 1.5, channels),
            "bias": rng.normal(0, 0.5, channels),
            "mean": rng.normal(0, 0.5, channels),
            "var": rng.uniform(0.5, 2.0, channels),
        }
        inputs = [x, *(self.constant(f"{name}.{k}", v.astype(np.float32)) for k, v in values.items())]
        return self.node("BatchNormalization", inputs, name)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def conv_bn_relu(self, x: str, cin: int, cout: int, kernel: int = 3, **options: int) -> str:
        return self.relu(self.batchnorm(self.conv(x, cin, cout, kernel, bias=False, **options), cout))

    def fc(self, x: str, inputs: int, outputs: int, *, output: str | None = None) -> str:
        name = self.name("fc")
        weight = self.random(f"{name}.weight", (outputs, inputs), inputs)
        return self.node("Gemm", [x, weight, self.random(f"{name}.bias", (outputs,))], name, output, transB=1)

    def head(self, x: str, channels: int, classes: int = 10) -> str:
        """Global average pooling, flatten, classifier; returns the graph output `logits`."""
        pooled = self.node("GlobalAveragePool", [x])
        return self.fc(self.node("Flatten", [pooled]), channels, classes, output="logits")

    def model(self, inputs: dict[str, Sequence[int | str]], outputs: dict[str, Sequence[int | str]]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "model",
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in inputs.items()],
            [helper.make_tensor_value_info(k, TensorProto.FLOAT, list(v)) for k, v in outputs.items()],
            self.initializers,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return proto


def plain(
    widths: Sequence[int] = (16, 24, 32), *, size: int = 16, channels: int = 3, classes: int = 10, seed: int = 0
) -> onnx.ModelProto:
    """Conv-BatchNorm-Relu blocks, each after the first with stride 2, then a classifier; dynamic batch."""
    b = Builder(seed)
    x, cin = "image", channels
    for i, width in enumerate(widths):
        x = b.conv_bn_relu(x, cin, width, stride=1 if i == 0 else 2)
        cin = width
    b.head(x, cin, classes)
    return b.model({"image": ("N", channels, size, size)}, {"logits": ("N", classes)})


def residual(width: int = 16, *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """Two residual blocks: the stem and the blocks' outputs are coupled, the blocks' inner channels are free."""
    b = Builder(seed)
    x = b.conv_bn_relu("image", 3, width)
    for _ in range(2):
        inner = b.conv_bn_relu(x, width, width)
        out = b.batchnorm(b.conv(inner, width, width, bias=False), width)
        x = b.relu(b.node("Add", [out, x]))
    b.head(x, width)
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def vgg(divisor: int = 16, *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """VGG11 with BatchNorm, its widths divided, its first four poolings; the head is a classifier of all positions."""
    b = Builder(seed)
    x, cin = "image", 3
    for i, width in enumerate((64, 128, 256, 256, 512, 512, 512, 512)):
        x, cin = b.conv_bn_relu(x, cin, width // divisor), width // divisor
        if i in (0, 1, 3, 5):
            x = b.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    b.fc(b.node("Flatten", [x]), cin * (size // 16) ** 2, 10, output="logits")
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def resnet(widths: Sequence[int] = (8, 12, 16), blocks: int = 2, *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """As ResNet-18: stages of basic blocks, a projection where a stage begins; every stage has a stream of its own."""
    b = Builder(seed)
    x, cin = b.conv_bn_relu("image", 3, widths[0]), widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = b.conv_bn_relu(x, cin, width, stride=stride)
            out = b.batchnorm(b.conv(inner, width, width, bias=False), width)
            if stride == 2 or cin != width:
                x = b.batchnorm(b.conv(x, cin, width, 1, stride=stride, bias=False), width)
            x, cin = b.relu(b.node("Add", [out, x])), width
    b.head(x, cin)
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def inverted_residuals(widths: Sequence[int] = (8, 12, 16), *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """As MobileNetV2: pointwise out, depthwise, pointwise back in; a residual where the widths are equal; ReLU6."""
    b = Builder(seed)
    limits = [b.constant("zero", np.float32(0)), b.constant("six", np.float32(6))]

    def layer(x: str, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1) -> str:
        x = b.batchnorm(b.conv(x, cin, cout, kernel, stride=stride, group=group, bias=False), cout)
        return b.node("Clip", [x, *limits])

    x, cin = layer("image", 3, widths[0], 3), widths[0]
    for stage, width in enumerate(widths):
        for block in range(2):
            stride = 2 if stage and not block else 1
            inner = layer(layer(x, cin, 2 * cin, 1), 2 * cin, 2 * cin, 3, stride, 2 * cin)
            out = b.batchnorm(b.conv(inner, 2 * cin, width, 1, bias=False), width)
            x, cin = (b.node("Add", [out, x]) if stride == 1 and cin == width else out), width
    b.head(layer(x, cin, 2 * cin, 1), 2 * cin)
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def grouped(width: int = 16, *, size: int = 16, groups: int = 4, seed: int = 0) -> onnx.ModelProto:
    """Pointwise, depthwise, pointwise, then a grouped conv."""
    b = Builder(seed)
    x = b.conv_bn_relu("image", 3, width, 1)
    x = b.conv_bn_relu(x, width, width, 3, group=width)
    x = b.conv_bn_relu(x, width, 2 * width, 1)
    x = b.conv_bn_relu(x, 2 * width, 2 * width, 3, group=groups)
    b.head(x, 2 * width)
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def concatenated(width: int = 8, *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """Two branches of different widths and their stem, joined by Concat."""
    b = Builder(seed)
    stem = b.conv_bn_relu("image", 3, width)
    half = b.conv_bn_relu(stem, width, width)
    right = b.conv_bn_relu(stem, width, 2 * width, 1)
    x = b.node("Concat", [half, right, stem], axis=1)
    x = b.conv_bn_relu(x, 4 * width, 2 * width)
    b.head(x, 2 * width)
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def transposed(width: int = 8, *, size: int = 16, seed: int = 0) -> onnx.ModelProto:
    """Encoder and decoder with a ConvTranspose and a skip connection; a dense output."""
    b = Builder(seed)
    skip = b.conv_bn_relu("image", 3, width)
    x = b.conv_bn_relu(skip, width, 2 * width, stride=2)
    weight = b.random("up1.weight", (2 * width, width, 2, 2), 2 * width)
    x = b.node("ConvTranspose", [x, weight, b.random("up1.bias", (width,))], "up1", kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Concat", [b.relu(x), skip], axis=1)
    x = b.conv_bn_relu(x, 2 * width, width)
    b.conv(x, width, 2, 1, name="mask")
    return b.model({"image": ("N", 3, size, size)}, {"mask_out": ("N", 2, size, size)})


def fully_connected(width: int = 8, *, size: int = 8, hidden: int = 32, seed: int = 0) -> onnx.ModelProto:
    """Convs whose flattened maps feed fully connected layers: each channel covers many columns of `fc1`."""
    b = Builder(seed)
    x = b.conv_bn_relu("image", 3, width)
    x = b.node("MaxPool", [b.relu(b.conv(x, width, 2 * width))], kernel_shape=[2, 2], strides=[2, 2])
    x = b.node("Flatten", [x])
    x = b.relu(b.fc(x, 2 * width * (size // 2) ** 2, hidden))
    b.fc(x, hidden, 10, output="logits")
    return b.model({"image": ("N", 3, size, size)}, {"logits": ("N", 10)})


def channels_last(width: int = 8, *, size: int = 8, seed: int = 0) -> onnx.ModelProto:
    """What TensorFlow exports: NHWC input, Transpose around convs, BatchNorm as Mul and Add, a MatMul."""
    b = Builder(seed)

    def conv_nhwc(x: str, cin: int, cout: int) -> str:
        name = b.name("conv")
        x = b.node("Transpose", [x], perm=[0, 3, 1, 2])
        x = b.node("Conv", [x, b.random(f"{name}.weight", (cout, cin, 3, 3), cin * 9)], name, pads=[1] * 4)
        x = b.node("Transpose", [x], perm=[0, 2, 3, 1])
        x = b.node("Mul", [x, b.random(f"{name}.scale", (cout,))])
        return b.relu(b.node("Add", [x, b.random(f"{name}.shift", (cout,))]))

    x = conv_nhwc(conv_nhwc("image", 3, width), width, 2 * width)
    x = b.node("ReduceMean", [x], axes=[1, 2], keepdims=0)
    x = b.node("MatMul", [x, b.random("fc1.weight", (2 * width, 10), 2 * width)], "fc1")
    b.node("Add", [x, b.random("fc1.bias", (10,))], output="logits")
    return b.model({"image": (1, size, size, 3)}, {"logits": (1, 10)})


def unprunable() -> onnx.ModelProto:
    """A single conv whose channels are the graph's output."""
    b = Builder()
    b.conv("image", 3, 8, name="only")
    return b.model({"image": ("N", 3, 8, 8)}, {"only_out": ("N", 8, 8, 8)})


def endless() -> onnx.ModelProto:
    """A conv, and a loop that would run until the end of time: what it gives has a shape that nobody knows.

    It grows by a piece a turn and no faster: were it to double, memory could run out before the time limit.
    """
    b = Builder()
    b.conv("image", 3, 8)
    forever = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Concat", ["seen_in", "image"], ["seen_out"], axis=1),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("seen_in", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("seen_out", TensorProto.FLOAT, None),
        ],
    )
    trips = b.constant("trips", np.array(1 << 62))
    b.node("Loop", [trips, b.constant("go", np.array(True)), "conv1_out"], output="seen", body=forever)
    return b.model({"image": (1, 3, 8, 8)}, {"seen": ("A", "B", "C", "D")})


ALL: dict[str, Callable[..., onnx.ModelProto]] = {
    "plain": plain,
    "residual": residual,
    "grouped": grouped,
    "concatenated": concatenated,
    "transposed": transposed,
    "fully_connected": fully_connected,
    "channels_last": channels_last,
}


def overridable(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with its initializers listed among its inputs, as older exporters do: nothing of it can be folded."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    copy.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in copy.graph.initializer
    )
    onnx.checker.check_model(copy)
    return copy


def custom(declared: tuple[int | str, ...] | None = None, after: str = "Relu") -> onnx.ModelProto:
    """Three convs with an operator of somebody's own domain between the second and the third."""
    b = Builder()
    x = b.conv(b.relu(b.conv("image", 3, 16)), 16, 8)
    b.nodes.append(helper.make_node("Blur", [x], ["blurred"], name="blur", domain="my.vision"))
    x = b.node(after, ["blurred"])
    x = b.conv(b.relu(b.conv(x, 8, 12)), 12, 4, name="last")
    proto = helper.make_model(
        helper.make_graph(
            b.nodes,
            "custom",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, None)],
            b.initializers,
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("my.vision", 1)],
        ir_version=8,
    )
    if declared is not None:
        proto.graph.value_info.append(helper.make_tensor_value_info("blurred", TensorProto.FLOAT, declared))
    return proto


STATES = ("h0", "c0", "h1", "c1")


def stateful_lstm() -> onnx.ModelProto:
    """An LSTM whose states come from outside and are returned."""
    b = Builder()
    weights = [b.random("lstm.W", (1, 32, 5), 5), b.random("lstm.R", (1, 32, 8), 8), b.random("lstm.B", (1, 64))]
    b.nodes.append(
        helper.make_node("LSTM", ["x", *weights, "", "h0", "c0"], ["y", "h1", "c1"], name="lstm", hidden_size=8)
    )
    y = b.node("Squeeze", ["y", b.constant("axis", np.array([1]))])
    b.node("MatMul", [y, b.random("out.weight", (8, 4), 8)], "out")
    state = (1, 2, 8)
    return b.model({"x": (7, 2, 5), "h0": state, "c0": state}, {"out_out": (7, 2, 4), "h1": state, "c1": state})
