"""CI=true turns a skipped test, and a module skipped at import, into a failure; without it they stay skipped."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SOURCES = {
    "mark": "import pytest\n@pytest.mark.skip(reason='no browser')\ndef test_a(): pass\n",
    "call": "import pytest\ndef test_a(): pytest.skip('no browser')\n",
    "module": "import pytest\npytest.importorskip('no_such_module')\ndef test_a(): pass\n",
}


def run_pytest(root, folder, source, ci):
    (folder / "conftest.py").write_text((root / "tests" / "conftest.py").read_text())
    (folder / "test_planted.py").write_text(source)
    environment = {key: value for key, value in os.environ.items() if key != "CI"} | ({"CI": "true"} if ci else {})
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", SOURCES)
def test_invalid_skip_fails_in_ci(root, tmp_path, kind):
    result = run_pytest(root, tmp_path, SOURCES[kind], ci=True)
    assert result.returncode not in {0, 5}
    assert "a skipped test counts as a failure" in result.stdout


def test_a_skip_elsewhere_stays_a_skip(root, tmp_path):
    result = run_pytest(root, tmp_path, SOURCES["mark"], ci=False)
    assert result.returncode == 0
    assert "1 skipped" in result.stdout


def test_an_expected_failure_is_no_skip(root, tmp_path):
    source = "import pytest\n@pytest.mark.xfail(reason='known')\ndef test_a(): assert False\n"
    assert run_pytest(root, tmp_path, source, ci=True).returncode == 0
