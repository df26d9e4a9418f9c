"""Small models of other tasks than classification, with data that they can learn from."""

from __future__ import annotations

import numpy as np
import onnx

from models import Builder, transposed

Arrays = dict[str, np.ndarray]


def regressor(seed: int = 0) -> onnx.ModelProto:
    """Two values from eight, through a hidden layer."""
    b = Builder(seed)
    b.fc(b.relu(b.fc("x", 8, 32)), 32, 2, output="values")
    return b.model({"x": ("N", 8)}, {"values": ("N", 2)})


def regression_data(count: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Values of different size and offset, each a smooth function of the inputs."""
    x = np.random.default_rng(seed).standard_normal((count, 8)).astype(np.float32)
    y = np.stack([3 * np.maximum(x[:, 0], x[:, 1]), x[:, 2] - 0.5 * x[:, 3]], 1).astype(np.float32)
    return {"": x}, {"": y}


def unet(seed: int = 0) -> onnx.ModelProto:
    """Encoder, decoder and a skip connection: two scores a pixel."""
    return transposed(size=8, seed=seed)


def segmentation_data(count: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Which pixels are brighter than a threshold; the first row is not labelled."""
    x = np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)
    y = (x.sum(1) > 0.5).astype(np.uint8)
    y[:, 0] = 255
    return {"": x}, {"": y}


def recurrent(seed: int = 0) -> onnx.ModelProto:
    """An LSTM over six steps, batch first as exporters write it, and a classifier on its last state."""
    b = Builder(seed)
    x = b.node("Transpose", ["x"], perm=[1, 0, 2])
    weights = [b.random("lstm.w", (1, 64, 4), 8), b.random("lstm.r", (1, 64, 16), 16), b.random("lstm.b", (1, 128), 16)]
    b.nodes.append(onnx.helper.make_node("LSTM", [x, *weights], ["all", "last", ""], name="lstm", hidden_size=16))
    last = b.node("Squeeze", ["last", b.constant("first", np.array([0], np.int64))])
    b.fc(last, 16, 3, output="logits")
    return b.model({"x": ("N", 6, 4)}, {"logits": ("N", 3)})


def sequence_data(count: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Which of the first three features is largest on the whole."""
    x = np.random.default_rng(seed).standard_normal((count, 6, 4)).astype(np.float32)
    return {"": x}, {"": x[:, :, :3].sum(1).argmax(1)}


def many(seed: int = 0) -> onnx.ModelProto:
    """Two inputs (an image, four numbers) and three outputs: classes, a value, a map of classes."""
    b = Builder(seed)
    x = b.conv_bn_relu("image", 3, 8)
    b.nodes[-1].output[0] = x = "features"
    b.conv("features", 8, 2, 1, name="map")
    b.nodes[-1].output[0] = "map"
    pooled = b.node("Flatten", [b.node("GlobalAveragePool", [x])])
    both = b.node("Concat", [pooled, "numbers"], axis=1)
    hidden = b.relu(b.fc(both, 12, 16))
    b.fc(hidden, 16, 4, output="logits")
    b.fc(hidden, 16, 1, output="value")
    return b.model(
        {"image": ("N", 3, 8, 8), "numbers": ("N", 4)}, {"logits": ("N", 4), "value": ("N", 1), "map": ("N", 2, 8, 8)}
    )


def many_data(count: int, seed: int = 0) -> tuple[Arrays, Arrays]:
    """Labels for all three outputs of `many`."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    numbers = rng.standard_normal((count, 4)).astype(np.float32)
    labels = {"logits": numbers.argmax(1), "value": 3 + numbers[:, 0], "map": (image[:, 0] > 0).astype(np.int64)}
    return {"image": image, "numbers": numbers}, labels


def arrays(samples: tuple[Arrays, Arrays], split: str) -> Arrays:
    """Inputs and labels under the names of an .npz."""
    return {
        f"{axis}_{split}.{name}".rstrip("."): v
        for axis, part in zip("xy", samples, strict=True)
        for name, v in part.items()
    }
