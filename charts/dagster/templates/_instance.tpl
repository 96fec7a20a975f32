{{/* dagster.yaml: built as one map, section by section, so that its indentation cannot go wrong. */}}

{{- define "dagster.instance" -}}
{{- $daemon := .Values.dagsterDaemon -}}
{{- $instance := dict -}}
{{- $_ := set $instance "storage" (dict "postgres" (dict "postgres_db" (include "dagster.instance.postgresDb" . | fromYaml))) -}}
{{- $_ := set $instance "scheduler" (include "dagster.instance.scheduler" . | fromYaml) -}}
{{- $_ := set $instance "run_launcher" (include "dagster.instance.runLauncher" . | fromYaml) -}}
{{- with include "dagster.instance.runCoordinator" . | fromYaml -}}
{{- $_ := set $instance "run_coordinator" . -}}
{{- end -}}
{{- $_ := set $instance "compute_logs" (include "dagster.instance.computeLogs" . | fromYaml) -}}
{{- with include "dagster.snakecase" .Values.pythonLogs | fromJson -}}
{{- $_ := set $instance "python_logs" . -}}
{{- end -}}
{{- if $daemon.enabled -}}
{{- if $daemon.runMonitoring.enabled -}}
{{- $_ := set $instance "run_monitoring" (include "dagster.snakecase" $daemon.runMonitoring | fromJson) -}}
{{- end -}}
{{- if $daemon.runRetries.enabled -}}
{{- $_ := set $instance "run_retries" (include "dagster.snakecase" $daemon.runRetries | fromJson) -}}
{{- end -}}
{{- range $section := list "sensors" "schedules" "backfills" -}}
{{- $threads := get $daemon $section | default dict -}}
{{- if $threads.useThreads -}}
{{- $_ := set $instance $section (include "dagster.snakecase" $threads | fromJson) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $_ := set $instance "telemetry" (dict "enabled" .Values.telemetry.enabled) -}}
{{- if .Values.retention.enabled -}}
{{- $_ := set $instance "retention" (include "dagster.instance.retention" . | fromYaml) -}}
{{- end -}}
{{- if .Values.concurrency.enabled -}}
{{- $_ := set $instance "concurrency" (include "dagster.instance.concurrency" . | fromYaml) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $instance (deepCopy (.Values.additionalInstanceConfig | default dict))) -}}
{{- end -}}

{{/* Called with a configurable class of the values: {module, class, config}. */}}
{{- define "dagster.instance.customClass" -}}
{{- dict "module" .module "class" .class "config" (.config | default dict) | toYaml -}}
{{- end -}}

{{- define "dagster.instance.postgresDb" -}}
username: {{ .Values.postgresql.postgresqlUsername | quote }}
password:
  env: DAGSTER_PG_PASSWORD
hostname: {{ include "dagster.postgresql.host" . | quote }}
db_name: {{ .Values.postgresql.postgresqlDatabase | quote }}
port: {{ .Values.postgresql.service.port | int }}
params: {{ .Values.postgresql.postgresqlParams | default dict | toJson }}
{{- with .Values.postgresql.postgresqlScheme }}
scheme: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "dagster.instance.scheduler" -}}
{{- $config := .Values.scheduler.config | default dict -}}
{{- if eq .Values.scheduler.type "CustomScheduler" -}}
{{- include "dagster.instance.customClass" $config.customScheduler -}}
{{- else -}}
module: dagster._core.scheduler
class: DagsterDaemonScheduler
config: {{ include "dagster.snakecase" ($config.daemonScheduler | default dict) }}
{{- end -}}
{{- end -}}

{{- define "dagster.instance.runLauncher" -}}
{{- if eq .Values.runLauncher.type "CustomRunLauncher" -}}
{{- include "dagster.instance.customClass" .Values.runLauncher.config.customRunLauncher -}}
{{- else if include "dagster.celery.enabled" . -}}
{{- include "dagster.instance.celeryRunLauncher" . -}}
{{- else -}}
{{- $launcher := .Values.runLauncher.config.k8sRunLauncher -}}
module: dagster_k8s
class: K8sRunLauncher
config:
  load_incluster_config: {{ $launcher.loadInclusterConfig }}
  {{- with $launcher.kubeconfigFile }}
  kubeconfig_file: {{ . | quote }}
  {{- end }}
  {{- with $launcher.image }}
  job_image: {{ include "dagster.image" (list $ .) | quote }}
  {{- end }}
  {{- include "dagster.instance.runPods" (list . $launcher) | nindent 2 }}
  {{- range $key := list "envConfigMaps" "envSecrets" }}
  {{- with get $launcher $key }}
  {{ snakecase $key }}:
    {{- range . }}
    - {{ .name }}
    {{- end }}
  {{- end }}
  {{- end }}
  {{- range $key := list "envVars" "resources" "schedulerName" "securityContext" }}
  {{- with get $launcher $key }}
  {{ snakecase $key }}: {{ toJson . }}
  {{- end }}
  {{- end }}
  {{- with $launcher.runK8sConfig }}
  run_k8s_config: {{ include "dagster.snakecase" . }}
  {{- end }}
{{- end -}}
{{- end -}}

{{/* What both launchers know of the pods of runs. Called with (list $ launcher-values). */}}
{{- define "dagster.instance.runPods" -}}
{{- $root := index . 0 -}}
{{- $launcher := index . 1 -}}
job_namespace: {{ include "dagster.jobNamespace" $root }}
service_account_name: {{ include "dagster.serviceAccountName" $root }}
{{- with $launcher.imagePullPolicy }}
image_pull_policy: {{ . }}
{{- end }}
{{- with $root.Values.imagePullSecrets }}
image_pull_secrets: {{ toJson . }}
{{- end }}
dagster_home: {{ $root.Values.global.dagsterHome | quote }}
instance_config_map: {{ include "dagster.instance.configmapName" $root }}
postgres_password_secret: {{ include "dagster.postgresql.secretName" $root }}
{{- range $key := list "volumes" "volumeMounts" "labels" }}
{{- with get $launcher $key }}
{{ snakecase $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- if $launcher.failPodOnRunFailure }}
fail_pod_on_run_failure: true
{{- end }}
{{- end -}}

{{/*
The launcher's configuration is the steps' too: celery_k8s_job_executor reads it from the instance, in the run's pod. So runs and
steps both have the Secret that says where the broker is.
*/}}
{{- define "dagster.instance.celeryRunLauncher" -}}
{{- $launcher := .Values.runLauncher.config.celeryK8sRunLauncher -}}
module: dagster_celery_k8s
class: CeleryK8sRunLauncher
config:
  {{- include "dagster.instance.runPods" (list . $launcher) | nindent 2 }}
  broker:
    env: DAGSTER_CELERY_BROKER_URL
  backend:
    env: DAGSTER_CELERY_BACKEND_URL
  {{- with $launcher.configSource }}
  config_source: {{ toJson . }}
  {{- end }}
  env_config_maps:
    - {{ include "dagster.fullname" . }}-pipeline-env
    {{- range $launcher.envConfigMaps }}
    - {{ .name }}
    {{- end }}
  env_secrets:
    {{- range $launcher.envSecrets }}
    - {{ .name }}
    {{- end }}
    - {{ include "dagster.celery.secretName" . }}
{{- end -}}

{{/*
Dagster queues runs unless told otherwise, and a queued run waits for the daemon's next look at the queue. Where the
values switch the coordinator off, runs are to start at once, and that has to be said. Limits under `concurrency` are
kept by the queue alone, so they leave Dagster's default in place.
*/}}
{{- define "dagster.instance.runCoordinator" -}}
{{- $coordinator := .Values.dagsterDaemon.runCoordinator -}}
{{- if not (and .Values.dagsterDaemon.enabled $coordinator.enabled) -}}
{{- if not .Values.concurrency.enabled -}}
module: dagster._core.run_coordinator
class: DefaultRunCoordinator
config: {}
{{- end -}}
{{- else if eq $coordinator.type "CustomRunCoordinator" -}}
{{- include "dagster.instance.customClass" $coordinator.config.customRunCoordinator -}}
{{- else -}}
{{- $queued := $coordinator.config.queuedRunCoordinator | default dict -}}
{{- $config := include "dagster.snakecase" (omit $queued "tagConcurrencyLimits" "blockOpConcurrencyLimitedRuns") | fromJson -}}
{{- with $queued.tagConcurrencyLimits -}}
{{- $_ := set $config "tag_concurrency_limits" . -}}
{{- end -}}
{{- with $queued.blockOpConcurrencyLimitedRuns -}}
{{- $_ := set $config "block_op_concurrency_limited_runs" (include "dagster.snakecase" . | fromJson) -}}
{{- end -}}
module: dagster._core.run_coordinator
class: QueuedRunCoordinator
config: {{ toJson $config }}
{{- end -}}
{{- end -}}

{{- define "dagster.instance.computeLogs" -}}
{{- $type := .Values.computeLogManager.type -}}
{{- $config := .Values.computeLogManager.config | default dict -}}
{{- if eq $type "CustomComputeLogManager" -}}
{{- include "dagster.instance.customClass" $config.customComputeLogManager -}}
{{- else -}}
{{- $modules := dict
  "NoOpComputeLogManager" "dagster._core.storage.noop_compute_log_manager"
  "AzureBlobComputeLogManager" "dagster_azure.blob.compute_log_manager"
  "GCSComputeLogManager" "dagster_gcp.gcs.compute_log_manager"
  "S3ComputeLogManager" "dagster_aws.s3.compute_log_manager" -}}
{{- $keys := dict
  "AzureBlobComputeLogManager" "azureBlobComputeLogManager"
  "GCSComputeLogManager" "gcsComputeLogManager"
  "S3ComputeLogManager" "s3ComputeLogManager" -}}
module: {{ get $modules $type }}
class: {{ $type }}
config: {{ include "dagster.snakecase" (get $config (get $keys $type | default "none") | default dict) }}
{{- end -}}
{{- end -}}

{{- define "dagster.instance.retention" -}}
{{- range $key := list "schedule" "sensor" "autoMaterialize" }}
{{- with get $.Values.retention $key }}
{{ snakecase $key }}:
  purge_after_days: {{ toJson .purgeAfterDays }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dagster.instance.concurrency" -}}
{{- $pools := include "dagster.snakecase" (.Values.concurrency.pools | default dict) | fromJson -}}
{{- $runs := include "dagster.snakecase" (.Values.concurrency.runs | default dict) | fromJson -}}
{{- if not $runs.tag_concurrency_limits -}}
{{- $_ := unset $runs "tag_concurrency_limits" -}}
{{- end -}}
{{- with $pools }}
pools: {{ toJson . }}
{{- end }}
{{- with $runs }}
runs: {{ toJson . }}
{{- end }}
{{- end -}}
