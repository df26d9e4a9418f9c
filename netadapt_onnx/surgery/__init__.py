"""Surgery by label propagation: trace a model, find its groups, cut them, prove the cut."""

from netadapt_onnx.surgery.criteria import CRITERIA, MEASURED, Criterion, class_totals, importance, select
from netadapt_onnx.surgery.explain import Explanation, explain
from netadapt_onnx.surgery.groups import Group
from netadapt_onnx.surgery.labels import Choices
from netadapt_onnx.surgery.moments import Moments, Targets, moments, original_targets
from netadapt_onnx.surgery.plan import plan_of, read_plan, template
from netadapt_onnx.surgery.reconstruct import kept_outputs, reconstruct, reconstruct_in_order
from netadapt_onnx.surgery.resize import resize
from netadapt_onnx.surgery.trace import KeptIndices, Trace, trace
from netadapt_onnx.surgery.verify import Verification, verify

__all__ = [
    "CRITERIA",
    "MEASURED",
    "Choices",
    "Criterion",
    "Explanation",
    "Group",
    "KeptIndices",
    "Moments",
    "Targets",
    "Trace",
    "Verification",
    "class_totals",
    "explain",
    "importance",
    "kept_outputs",
    "moments",
    "original_targets",
    "plan_of",
    "read_plan",
    "reconstruct",
    "reconstruct_in_order",
    "resize",
    "select",
    "template",
    "trace",
    "verify",
]
