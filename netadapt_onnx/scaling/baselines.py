"""The methods that NeuralScale is compared with: one multiplier for all widths, from uniform or pruned ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netadapt_onnx.errors import NetadaptError
from netadapt_onnx.scaling.network import ScalableNetwork
from netadapt_onnx.scaling.neuralscale import with_all_groups
from netadapt_onnx.scaling.options import Method
from netadapt_onnx.scaling.train_networks import NetworkTrainer
from netadapt_onnx.surgery.criteria.selection import importance

# MorphNet and magnitude prune once to this share of the filters; widths are scaled uniformly from there.
PRUNED_SHARE = 0.5


def baseline_widths(
    network: ScalableNetwork, trainer: NetworkTrainer | None, method: Method, key: str, warm_up_epochs: int
) -> Mapping[str, float]:
    """The widths that a multiplier scales: the original's, or those that remain once half of the filters are removed.

    MorphNet (Gordon et al., CVPR 2018) is the paper's comparison, with Taylor importance; magnitude removes the filters
    with the smallest L2 norm, in units of their group's mean, from a trained network.

    Raises:
        NetadaptError: The method trains and there are no data, or no group has a filter to spare.
    """
    if method == "uniform":
        return network.widths
    if trainer is None:
        raise NetadaptError(f"--method {method} trains networks, which takes data", hint="give --data", code="usage")
    proto = trainer.initialised(network.at(network.widths))
    if method == "morphnet":
        record = trainer.descend(key, proto, warm_up_epochs=warm_up_epochs, share=PRUNED_SHARE, sparing=True)
        record = with_all_groups(record, network)
        if not len(record.tau):
            raise NetadaptError("no group has a filter that could be removed", code="nothing-to-prune")
        return dict(zip(record.names, record.widths[-1].tolist(), strict=True))
    scores = importance(network.traced(trainer.briefly_trained(key, proto)), "l2", normalised=True)
    limit = float(np.quantile(np.concatenate(list(scores.values())), PRUNED_SHARE))
    return {name: max(1, int((scores[name] > limit).sum())) for name in network.widths}
