"""What tests of data checks ask of a report."""

from __future__ import annotations

from metalr_monai.data.problem_report import Kind, Problem, ProblemReport


def only(report: ProblemReport, kind: Kind, *words: str) -> Problem:
    """The report's one problem."""
    (problem,) = report.problems
    assert problem.kind == kind
    assert report.ok == (kind == "warning")
    for word in words:
        assert word in problem.message
    return problem
