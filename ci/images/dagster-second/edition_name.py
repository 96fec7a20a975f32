"""The one file in which this image differs from dagster-test."""

EDITION = "second"
