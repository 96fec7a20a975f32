"""The user code of the test image, under the names that Dagster's Kubernetes suites have always known it by."""
