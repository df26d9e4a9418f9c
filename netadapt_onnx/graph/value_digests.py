"""What the tensors of a model are computed from, as digests: tensors of one name and equal digests are equal."""

from __future__ import annotations

from hashlib import sha256

import onnx

from netadapt_onnx.graph.nodes import reads


def value_digests(proto: onnx.ModelProto) -> dict[str, bytes]:
    """A digest of the nodes and the weights that each tensor is computed from.

    Args:
        proto: A model whose nodes are in topological order.

    Returns:
        The digests by tensor, inputs and initializers included.
    """
    digests = {value.name: b"" for value in proto.graph.input}
    digests |= {t.name: sha256(t.SerializeToString(deterministic=True)).digest() for t in proto.graph.initializer}
    for node in proto.graph.node:
        read = b"".join(digests.get(name, b"") for name in reads(node))
        digest = sha256(node.SerializeToString(deterministic=True) + read).digest()
        digests.update(dict.fromkeys(node.output, digest))
    return digests
