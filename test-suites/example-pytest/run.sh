# Runs the tests, and tells of each by a JUnit file; by the pytest of this machine, else by one in a virtual environment that is kept.
set -eu
python=python3
if ! python3 -c 'import pytest' 2>/dev/null; then
    environment=../../target/example-pytest
    [ -x "$environment/bin/pytest" ] || { python3 -m venv "$environment" && "$environment/bin/pip" install --quiet pytest; }
    python=$environment/bin/python
fi
exec "$python" -m pytest -q -p no:cacheprovider --junitxml "$K8S_TEST_JUNIT" test_web.py
