"""Surgery by label propagation: trace a model, find its groups, cut them, prove the cut."""

from netadapt_onnx.surgery.blocks import (
    Branch,
    find_branches,
    known_branches,
    prove_removal,
    rewired,
    same_groups,
    traced_without,
)
from netadapt_onnx.surgery.criteria.weights import CRITERIA, MEASURED, Criterion, class_totals, importance, select
from netadapt_onnx.surgery.explain import Explanation, explain
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.plan import plan_of, read_plan, read_removed, template
from netadapt_onnx.surgery.reconstruct.gram import GramMatrices, Targets, gram_matrices, original_targets
from netadapt_onnx.surgery.reconstruct.least_squares import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import KeptIndices, Trace, trace
from netadapt_onnx.surgery.verify.prove import Verification, verify

__all__ = [
    "CRITERIA",
    "MEASURED",
    "Branch",
    "Choices",
    "Criterion",
    "Explanation",
    "GramMatrices",
    "Group",
    "KeptIndices",
    "Targets",
    "Trace",
    "Verification",
    "class_totals",
    "explain",
    "find_branches",
    "gram_matrices",
    "importance",
    "kept_outputs",
    "known_branches",
    "original_targets",
    "plan_of",
    "prove_removal",
    "read_plan",
    "read_removed",
    "reconstruct",
    "reconstruct_in_order",
    "resize",
    "rewired",
    "same_groups",
    "select",
    "template",
    "trace",
    "traced_without",
    "verify",
]
