"""Inside the image's build: makes the Kubernetes client import what is asked for, instead of all of it.

As it comes, `import kubernetes.client` imports 800 modules, of which a run needs a few dozen; every pod of a run and of a step pays for
them with a quarter of its start. Names stay where they are: a package's __getattr__ (PEP 562) imports them at their first use.

usage: lazy_kubernetes.py FOLDER, the one in which the package `kubernetes` stands
"""

import re
import sys
from pathlib import Path

PACKAGES = ["", "api", "models"]
IMPORT = re.compile(r"^from kubernetes\.client\.((?:api|models)\.\w+) import (\w+)$")
LAZY = '''
from importlib import import_module as _import_module

_WHERE = {where}


def __getattr__(name):
    module = _WHERE.get(name)
    if module is not None:
        value = getattr(_import_module("kubernetes.client." + module), name)
    elif name in _MODULES:
        value = _import_module(__name__ + "." + name)
    else:
        raise AttributeError(f"module {{__name__!r}} has no attribute {{name!r}}")
    globals()[name] = value
    return value


def __dir__():
    return sorted({{*globals(), *_WHERE, *_MODULES}})


# As names after `from … import *` it has what it had before.
_MODULES = {modules}
__all__ = [name for name in __dir__() if not name.startswith("_")]
'''


def make_lazy(init: Path) -> int:
    """Rewrites the __init__.py of a package; gives the number of its names that are imported later."""
    kept, where = [], {}
    for line in init.read_text(encoding="utf-8").splitlines():
        found = IMPORT.match(line)
        if found:
            where[found[2]] = found[1]
        else:
            kept.append(line)
    # Those that importing its names had made attributes of it, too.
    modules = {module.split(".")[-1] for module in where.values() if module.split(".")[0] == init.parent.name}
    if not modules:
        modules = {module.split(".")[0] for module in where.values()}
    lazy = LAZY.format(where=repr(where), modules=repr(sorted(modules)))
    init.write_text("\n".join(kept) + "\n" + lazy, encoding="utf-8")
    return len(where)


def main() -> None:
    client = Path(sys.argv[1]) / "kubernetes" / "client"
    for package in PACKAGES:
        init = client / package / "__init__.py"
        if not make_lazy(init):
            sys.exit(f"{init} imports nothing in the way that was expected: is this another version of the Kubernetes client?")


if __name__ == "__main__":
    main()
