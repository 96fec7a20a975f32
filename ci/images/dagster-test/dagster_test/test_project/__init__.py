"""The project whose jobs the suites launch, and the run configurations that go with them."""

from pathlib import Path

ENVIRONMENTS = Path(__file__).parent / "environments"
