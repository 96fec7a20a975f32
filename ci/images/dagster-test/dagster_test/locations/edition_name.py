"""The one file in which the image dagster-second differs."""

EDITION = "first"
