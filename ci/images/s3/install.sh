#!/bin/sh
# Inside the image's build: makes a virtual environment at $1 out of requirements.txt, without what no process reads and compiled ahead.
set -eu
venv=$1

python3 -m venv "$venv"
set -- --disable-pip-version-check --no-cache-dir --no-compile --no-deps --only-binary :all:
if [ -d wheels ]; then
    set -- "$@" --no-index --find-links wheels
fi
"$venv/bin/pip" install "$@" --requirement requirements.txt
"$venv/bin/pip" check
"$venv/bin/pip" uninstall --yes --quiet setuptools pip

cd "$venv"/lib/python3.*/site-packages
# botocore describes 400 services of AWS, and moto plays 180. Kept are S3 and what moto's S3 imports.
for service in botocore/data/*/ moto/*/; do
    case $service in
        botocore/data/s3/ | moto/s3/ | moto/s3bucket_path/ | moto/core/ | moto/utilities/ | moto/moto_api/ | moto/moto_server/) ;;
        moto/cloudwatch/ | moto/events/ | moto/iam/ | moto/sts/) ;;
        *) rm -rf "$service" ;;
    esac
done
"$venv/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash .
echo "pruned and compiled: $(du -sm . | cut -f1) MB"
