"""`gate` as JUnit XML: a suite for each model, a case for each limit. Only what every reader of the format knows."""

from __future__ import annotations

from xml.etree import ElementTree

from netadapt_onnx.gating.formats.escape_names import printable
from netadapt_onnx.gating.result import Gate, ModelResult


def junit(gate: Gate) -> str:
    """Format the document; a limit that could not be measured is an error, one that is exceeded a failure."""
    root = ElementTree.Element("testsuites", name="netadapt-onnx gate", time=f"{gate.seconds:.3f}")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for model in gate.models:
        suite = _suite(root, model)
        for name in totals:
            totals[name] += int(suite.attrib[name])
    root.attrib.update({name: str(count) for name, count in totals.items()})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(root: ElementTree.Element, model: ModelResult) -> ElementTree.Element:
    path = printable(model.path.as_posix())
    unread = model.unread is not None
    errors = sum(not check.conclusive for check in model.checks) + unread
    failures = sum(check.conclusive for check in model.failures)
    counts = {"tests": len(model.checks) + unread, "failures": failures, "errors": errors, "skipped": 0}
    attributes = {"name": path, **{name: str(count) for name, count in counts.items()}}
    suite = ElementTree.SubElement(root, "testsuite", attributes)
    if model.unread:
        case = ElementTree.SubElement(suite, "testcase", classname=path, name="loads")
        ElementTree.SubElement(case, "error", type=model.unread.code, message=printable(model.unread.message, 1000))
    for check in model.checks:
        case = ElementTree.SubElement(suite, "testcase", classname=path, name=check.limit)
        if check.ok:
            continue
        kind, what = ("failure", "limit") if check.conclusive else ("error", check.code)
        element = ElementTree.SubElement(case, kind, type=what, message=printable(check.reason, 1000))
        advice = [check.advice] if check.advice and check.conclusive else []
        blamed = [f"{b.layer} {b.op}: {b.resource} {b.before} -> {b.after}" for b in model.blame]
        element.text = "\n".join(printable(line) for line in (check.reason, *blamed, *advice))
    return suite
