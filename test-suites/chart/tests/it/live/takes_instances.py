"""Tells what Dagster has against each `dagster.yaml` in INSTANCES (name to text), and which classes' modules are not here to judge their part."""

import importlib
import json
import os
import tempfile

from dagster._config import validate_config
from dagster._core.instance.ref import InstanceRef

away = set()


def faults(text):
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "dagster.yaml"), "w") as file:
            file.write(text)
        try:
            instance = InstanceRef.from_dir(folder)
        except Exception as error:
            yield str(error)
            return
    # Of the classes Dagster has looked at the names alone.
    for part in instance:
        if hasattr(part, "class_name"):
            try:
                module = importlib.import_module(part.module_name)
            except ImportError:
                away.add(part.module_name)
                continue
            schema = getattr(module, part.class_name).config_type()
            for error in validate_config(schema, part.config_dict).errors or []:
                yield f"{part.class_name}: {error.message}"


told = {name: list(faults(text)) for name, text in json.loads(os.environ["INSTANCES"]).items()}
print(json.dumps({"faults": {name: faults for name, faults in told.items() if faults}, "away": sorted(away)}))
