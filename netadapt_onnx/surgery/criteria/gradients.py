"""Criteria by gradients, taylor and fisher: what the loss would change if a channel were removed.

A gate z of 1 stands where a channel is summed over (`reduction_sites`); removing the channel sets it to 0. To first
order that changes the loss L by dL/dz, so importance is (dL/dz)^2 averaged over batches (taylor: Molchanov et al., CVPR
2019) or half of it averaged over samples (fisher: Theis et al., arXiv:1801.05787). Gradients need torch:
`training/gradient_scores.py` computes them, and this module makes a criterion of them.
"""

from __future__ import annotations

from netadapt_onnx.surgery.criteria.scores import Criterion, LabelScores, RememberedScores

GRADIENTS = ("taylor", "fisher")


def gradient_criterion(name: str, label_scores: LabelScores) -> Criterion:
    """A criterion by gradients.

    Args:
        name: One of `GRADIENTS`.
        label_scores: Computes the importance of each root label of a model, (labels,).
    """
    return RememberedScores(name, label_scores)
