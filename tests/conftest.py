"""What holds for every test: one numerical thread, no deadline that a loaded machine breaks, and no skip in CI."""

from __future__ import annotations

import os

import hypothesis
import pytest

IN_CI = os.environ.get("CI") == "true"

# Several processes with two threads each run many times slower than with one; read before torch is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("paceline", deadline=None, derandomize=IN_CI)
hypothesis.settings.load_profile("paceline")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    return _refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    return _refuse_skip(report)


def _refuse_skip(report):
    """In CI a skipped test or module is a failure; an expected failure (xfail) stays what it is."""
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"CI=true: a skipped test counts as a failure ({reason})"
    return report
