#!/bin/sh
# Inside the image's build: makes a virtual environment at $1 out of requirements.txt, without what no process reads and compiled ahead.
set -eu
venv=$1

# One environment of its own makes the result the same on the official Python image and on the one made from Debian's packages.
python3 -m venv "$venv"
set -- --disable-pip-version-check --no-cache-dir --no-compile --no-deps --only-binary :all:
if [ -d wheels ]; then
    set -- "$@" --no-index --find-links wheels
fi
"$venv/bin/pip" install "$@" --requirement requirements.txt
"$venv/bin/pip" check
"$venv/bin/pip" uninstall --yes --quiet setuptools pip

here=$PWD
cd "$venv"/lib/python3.*/site-packages
echo "installed: $(du -sm . | cut -f1) MB"

# Debugging aids of the web application, type stubs, and the test suites that some packages carry along. What is called "testing" is API.
find . -name '*.map' -delete
find . -name '*.pyi' -delete
rm -rf alembic/testing/suite fsspec/tests graphene/test graphene/tests graphene/types/tests graphene/relay/tests graphene/utils/tests \
    greenlet/tests tornado/test websocket/tests

# The Kubernetes client stands there twice, and nobody imports the asynchronous one.
rm -rf kubernetes/aio

# botocore describes 400 services of AWS. Kept are those that dagster-aws calls, and those that credentials come from.
for service in botocore/data/*/; do
    case $(basename "$service") in
        athena | ec2 | ecr | ecs | emr | emr-containers | emr-serverless | glue | iam | lambda | logs | rds | rds-data | \
            redshift | redshift-data | resourcegroupstaggingapi | s3 | secretsmanager | signin | sqs | ssm | sso | sso-oidc | sts) ;;
        *) rm -rf "$service" ;;
    esac
done

# Every pod starts Python anew. start.py tells what each of these gives.
"$venv/bin/python" "$here/lazy_kubernetes.py" .
# What is made while modules are imported stays, and the collector would look through it again and again.
echo 'import gc; gc.set_threshold(200_000, 20, 100)' >collect-seldom.pth
# Nothing may be left to compile when a pod starts. Unchecked hashes hold whatever a copy does to the files' times.
"$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash .
# Half of the Kubernetes client's bytecode is docstrings, which would be read along.
"$venv/bin/python" - <<'END'
import pathlib
import py_compile
from importlib.util import cache_from_source

for source in pathlib.Path("kubernetes/client").rglob("*.py"):
    py_compile.compile(
        str(source),
        cfile=cache_from_source(str(source)),
        doraise=True,
        optimize=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
END
echo "pruned and compiled: $(du -sm . | cut -f1) MB"
