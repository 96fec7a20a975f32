"""The jobs: one module for each thing that the suites try out."""
