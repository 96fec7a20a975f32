"""Assets that programs in pods of their own make, by Dagster Pipes.

Each job is made by a function, so that dagster_k8s is imported where such a job runs and nowhere else.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dagster import AssetExecutionContext, Definitions, JobDefinition, asset, define_asset_job, in_process_executor

from dagster_test.test_project.test_jobs.pods import own_image

NUMBER = ["python", "-m", "dagster_test.external.number"]
EVEN = {"env": {"NUMBER": "2"}, "extras": {"more": 4}}
# Without a share of the processors a program stands still while others start.
SHARE = {"resources": {"requests": {"cpu": "20m"}}}


def asset_job(name: str, compute: Callable) -> JobDefinition:
    """The job of one asset, in the run's own process."""
    made = asset(name=name.removesuffix("_job"))(compute)
    job = define_asset_job(name, selection=[made], executor_def=in_process_executor)
    return Definitions(assets=[made], jobs=[job]).resolve_job_def(name)


def client(**options):
    from dagster_k8s import PipesK8sClient

    return PipesK8sClient(poll_interval=0.5, **options)


def of_run(context: AssetExecutionContext) -> dict:
    """Lets the pod be found by its run, as those that Dagster itself starts."""
    return {"labels": {"dagster/run-id": context.run.run_id, "app.kubernetes.io/component": "pipes"}}


def run_module(context: AssetExecutionContext, module: str, **options):
    command = ["python", "-m", f"dagster_test.external.{module}"]
    done = client().run(
        context=context, image=own_image(context), command=command, base_pod_meta=of_run(context), base_pod_spec={"containers": [SHARE]}, **options
    )
    return done.get_materialize_result()


def pipes_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        return run_module(context, "number", **EVEN)

    return asset_job("pipes_job", compute)


def pipes_failure_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        return run_module(context, "failure")

    return asset_job("pipes_failure_job", compute)


def pipes_slow_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        os.environ["DAGSTER_PIPES_K8S_CONSUME_POD_LOGS_REQUEST_TIMEOUT"] = "1"
        # Before the program says its first word, each request that is given up counts as one that failed.
        os.environ["DAGSTER_PIPES_K8S_CONSUME_POD_LOGS_RETRIES"] = "100"
        return run_module(context, "slow")

    return asset_job("pipes_slow_job", compute)


def pipes_init_container_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        image = {"image": own_image(context), "image_pull_policy": "IfNotPresent"}
        # The second goes on until the pod ends, and then not well.
        beside = ["sh", "-c", "trap 'exit 1' TERM; sleep 900 & wait $!"]
        spec = {
            "init_containers": [
                {"name": "before", "command": ["echo", "before"], **image},
                {"name": "beside", "command": beside, "restart_policy": "Always", **image},
            ],
            "containers": [{"name": "number", "command": NUMBER, **image, **SHARE}],
        }
        ignored = {"before", "beside"}
        done = client().run(context=context, base_pod_meta=of_run(context), base_pod_spec=spec, ignore_containers=ignored, **EVEN)
        return done.get_materialize_result()

    return asset_job("pipes_init_container_job", compute)


def pipes_file_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        injector = config_map_injector(f"pipes-{context.run.run_id}")
        spec = {
            "containers": [{"volume_mounts": [{"name": "context", "mount_path": "/mnt/dagster"}], **SHARE}],
            "volumes": [{"name": "context", "config_map": {"name": injector.name}}],
        }
        done = client(context_injector=injector).run(
            context=context, image=own_image(context), command=NUMBER, base_pod_meta=of_run(context), base_pod_spec=spec, **EVEN
        )
        return done.get_materialize_result()

    return asset_job("pipes_file_job", compute)


def config_map_injector(name: str):
    """Gives the context by a file of a ConfigMap, which is there as long as the session."""
    from dagster import PipesContextInjector
    from kubernetes import client as api
    from kubernetes import config

    class ConfigMapInjector(PipesContextInjector):
        def __init__(self):
            self.name = name

        @contextmanager
        def inject_context(self, context) -> Iterator[dict]:
            config.load_incluster_config()
            namespace = own_namespace()
            body = api.V1ConfigMap(metadata=api.V1ObjectMeta(name=name), data={"context.json": json.dumps(context)})
            api.CoreV1Api().create_namespaced_config_map(namespace, body)
            try:
                yield {"path": "/mnt/dagster/context.json"}
            finally:
                api.CoreV1Api().delete_namespaced_config_map(name, namespace)

        def no_messages_debug_text(self) -> str:
            return f"The context was given by ConfigMap {name}."

    return ConfigMapInjector()


def own_namespace() -> str:
    from dagster_k8s.utils import detect_current_namespace

    namespace = detect_current_namespace(None)
    if namespace is None:
        raise ValueError("nothing tells the namespace of this pod: it has no service account")
    return namespace


def pipes_session_job() -> JobDefinition:
    def compute(context: AssetExecutionContext):
        from dagster import PipesEnvContextInjector, open_pipes_session
        from dagster_k8s import PipesK8sPodLogsMessageReader, execute_k8s_job
        from dagster_k8s.client import DagsterKubernetesClient

        reader = PipesK8sPodLogsMessageReader()
        session = open_pipes_session(
            context=context, extras=EVEN["extras"], context_injector=PipesEnvContextInjector(), message_reader=reader
        )
        with session as opened:
            name = f"pipes-{context.run.run_id}"
            variables = {**EVEN["env"], **opened.get_bootstrap_env_vars()}
            execute_k8s_job(
                context,
                image=own_image(context),
                command=NUMBER,
                k8s_job_name=name,
                env_vars=[f"{key}={value}" for key, value in variables.items()],
            )
            kubernetes = DagsterKubernetesClient.production_client()
            [pod] = kubernetes.get_pod_names_in_job(name, own_namespace())
            reader.consume_pod_logs(context, core_api=kubernetes.core_api, pod_name=pod, namespace=own_namespace())
        yield from opened.get_results()

    return asset_job("pipes_session_job", compute)


def jobs() -> list[tuple[str, Callable[[], JobDefinition]]]:
    made = [pipes_job, pipes_failure_job, pipes_slow_job, pipes_init_container_job, pipes_file_job, pipes_session_job]
    return [(define.__name__, define) for define in made]
