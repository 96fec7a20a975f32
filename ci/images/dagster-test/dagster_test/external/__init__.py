"""Programs that Dagster runs in pods of their own and that report by Dagster Pipes. They import nothing of Dagster but dagster_pipes."""
