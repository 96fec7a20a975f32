"""A code location that cannot be loaded, as after a dependency was forgotten."""

import nobody_installed_this  # noqa: F401
