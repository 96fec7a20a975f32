//! Dagster's k8s_job_executor, from outside: each step is a Job of its own, and what of it is left when the run ends.

mod fail;
mod steps;
