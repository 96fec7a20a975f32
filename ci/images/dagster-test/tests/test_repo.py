"""What can be known of the user code without a cluster; README.md of ci/images tells how to run it in the image."""

import tempfile
import unittest

import yaml
from dagster import DagsterInstance, execute_job, reconstructable
from dagster_test.test_project import ENVIRONMENTS
from dagster_test.test_project.test_jobs.repo import define_demo_execution_repo
from dagster_test.test_project.test_jobs.storage import shared_io_manager
from dagster_test.test_project.test_jobs.words import demo_graph


def config(name):
    return yaml.safe_load((ENVIRONMENTS / name).read_text())


def words_between_processes():
    """demo_job_k8s with the executor that needs no cluster: its steps are processes that share only what the IO manager gives them."""
    return demo_graph.to_job(resource_defs={"io_manager": shared_io_manager})


class Repo(unittest.TestCase):
    def job(self, name):
        return define_demo_execution_repo().get_job(name)

    def test_makes_every_job(self):
        names = {job.name for job in define_demo_execution_repo().get_all_jobs()}
        self.assertEqual(
            names - {"__ASSET_JOB"},
            {
                "demo_job",
                "demo_job_k8s",
                "demo_job_celery_k8s",
                "always_fail_job",
                "deaf_job",
                "tagged_job",
                "variables_job",
                "slow_job_k8s",
                "volume_mount_job_k8s",
                "resources_limit_job_k8s",
                "spin_forever_job_k8s",
                "retry_job_k8s",
                "layers_job_k8s",
                "k8s_op_job",
                "k8s_ops_in_order_job",
                "execute_k8s_job_job",
                "execute_k8s_job_again_job",
                "pipes_job",
                "pipes_failure_job",
                "pipes_slow_job",
                "pipes_init_container_job",
                "pipes_file_job",
                "pipes_session_job",
                "await_pod_job",
                "await_k8s_job_job",
                "tell_of_pods_job",
                "slow_execute_k8s_op_job",
                "resource_job_celery_k8s",
                "retry_job_celery_k8s",
                "hard_failer_job_celery_k8s",
                "resources_limit_job_celery_k8s",
                "volume_mount_job_celery_k8s",
                "two_queues_job_celery_k8s",
                "one_at_a_time_job_celery_k8s",
                "acks_early_job_celery_k8s",
                "acks_late_job_celery_k8s",
            },
        )

    def test_counts_letters(self):
        result = self.job("demo_job").execute_in_process(run_config=config("env.yaml"))
        self.assertEqual(result.output_for_node("count_letters"), {"b": 2, "a": 2, "r": 2})

    def test_counts_letters_of_a_subset(self):
        result = self.job("demo_job").execute_in_process(run_config=config("env_subset.yaml"), op_selection=["count_letters"])
        self.assertEqual(result.output_for_node("count_letters"), {"b": 1, "a": 1, "r": 1})

    def test_names_the_queue_of_an_op_and_no_other(self):
        two = self.job("two_queues_job_celery_k8s")
        queues = [two.graph.node_named(name).tags.get("dagster-celery/queue") for name in ["multiply_the_word", "count_letters"]]
        self.assertEqual(queues, [None, "extra-queue-1"])

    def test_failure_carries_its_message(self):
        with self.assertRaisesRegex(Exception, "Op Exception Message"):
            self.job("always_fail_job").execute_in_process(run_config=config("env.yaml"))

    def test_hands_values_between_processes_through_the_instance(self):
        self.check_between_processes({})

    def test_hands_values_between_processes_through_a_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            self.check_between_processes({"resources": {"io_manager": {"config": {"base_dir": folder}}}})

    def check_between_processes(self, extra):
        with tempfile.TemporaryDirectory() as home, DagsterInstance.local_temp(home) as instance:
            with execute_job(
                reconstructable(words_between_processes),
                instance=instance,
                run_config={**config("env.yaml"), **extra, "execution": {"config": {"multiprocess": {}}}},
            ) as result:
                self.assertTrue(result.success)
                self.assertEqual(result.output_for_node("count_letters"), {"b": 2, "a": 2, "r": 2})


if __name__ == "__main__":
    unittest.main()
