{{/* Names, labels and the container context of the code servers. The prefix keeps them apart from the parent chart's. */}}

{{- define "dagsterUserDeployments.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dagsterUserDeployments.fullname" -}}
{{- $global := .Values.global | default dict -}}
{{- $override := $global.fullnameOverride | default .Values.fullnameOverride -}}
{{- $name := $global.nameOverride | default .Values.nameOverride | default .Chart.Name -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $override | default $own | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dagsterUserDeployments.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dagsterUserDeployments.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dagsterUserDeployments.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "dagsterUserDeployments.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* JSON of {"deployments": [...]}, each entry with its name, from either form of the values. */}}
{{- define "dagsterUserDeployments.deployments" -}}
{{- $all := list -}}
{{- if kindIs "map" .Values.deployments -}}
{{- range $name, $deployment := .Values.deployments -}}
{{- $all = append $all (merge (dict "name" $name) $deployment) -}}
{{- end -}}
{{- else -}}
{{- $all = .Values.deployments | default list -}}
{{- end -}}
{{- dict "deployments" $all | toJson -}}
{{- end -}}

{{/* Called with (list $ image). */}}
{{- define "dagsterUserDeployments.image" -}}
{{- $image := index . 1 -}}
{{- with $image.registry -}}{{ . }}/{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 0).Chart.AppVersion | include "dagsterUserDeployments.text") -}}
{{- end -}}
{{- end -}}

{{/* A plain value as text. All numbers of values are floating point here, and a large one would be written as 1e+06. */}}
{{- define "dagsterUserDeployments.text" -}}
{{- if kindIs "float64" . -}}{{ toJson . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{- define "dagsterUserDeployments.serviceAccountName" -}}
{{- $global := .Values.global | default dict -}}
{{- $global.serviceAccountName | default .Values.serviceAccount.name | default (printf "%s-user-deployments" (include "dagsterUserDeployments.fullname" .)) -}}
{{- end -}}

{{/* Called with (list $ deployment): a code server may have a ServiceAccount of its own. */}}
{{- define "dagsterUserDeployments.deploymentServiceAccountName" -}}
{{- ((index . 1).serviceAccount | default dict).name | default (include "dagsterUserDeployments.serviceAccountName" (index . 0)) -}}
{{- end -}}

{{- define "dagsterUserDeployments.postgresqlSecretName" -}}
{{- (.Values.global | default dict).postgresqlSecretName | default .Values.postgresqlSecretName -}}
{{- end -}}

{{- define "dagsterUserDeployments.celeryConfigSecretName" -}}
{{- (.Values.global | default dict).celeryConfigSecretName | default .Values.celeryConfigSecretName -}}
{{- end -}}

{{- define "dagsterUserDeployments.dagsterHome" -}}
{{- (.Values.global | default dict).dagsterHome | default .Values.dagsterHome -}}
{{- end -}}

{{/* The full name of the dagster chart, which is this release's parent wherever an object of its is named. */}}
{{- define "dagsterUserDeployments.parentFullname" -}}
{{- $global := .Values.global | default dict -}}
{{- $name := $global.nameOverride | default "dagster" -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $global.fullnameOverride | default $own | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* What every code server has in its environment, as ConfigMap data. */}}
{{- define "dagsterUserDeployments.sharedEnv" -}}
DAGSTER_HOME: {{ include "dagsterUserDeployments.dagsterHome" . | quote }}
DAGSTER_K8S_PIPELINE_RUN_NAMESPACE: {{ .Release.Namespace | quote }}
DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP: {{ printf "%s-pipeline-env" (include "dagsterUserDeployments.parentFullname" .) | quote }}
{{- end -}}

{{- define "dagsterUserDeployments.instanceConfigMap" -}}
{{- (.Values.global | default dict).dagsterInstanceConfigMap | default (printf "%s-instance" (include "dagsterUserDeployments.parentFullname" .)) -}}
{{- end -}}

{{/*
What the run launcher adds to the pods of this code's runs: JSON for `--container-context`. It repeats what the code
server itself has, so that an op sees the environment and the files its code was loaded with. Called with (list $ deployment).
*/}}
{{- define "dagsterUserDeployments.containerContext" -}}
{{- $root := index . 0 -}}
{{- $deployment := index . 1 -}}
{{- $userEnv := printf "%s-%s-user-env" (include "dagsterUserDeployments.fullname" $root) $deployment.name -}}
{{- $context := dict
  "image_pull_policy" $deployment.image.pullPolicy
  "namespace" $root.Release.Namespace
  "service_account_name" (include "dagsterUserDeployments.deploymentServiceAccountName" .) -}}
{{- with $root.Values.imagePullSecrets -}}
{{- $_ := set $context "image_pull_secrets" . -}}
{{- end -}}
{{- $configMaps := list $userEnv -}}
{{- range $deployment.envConfigMaps -}}
{{- $configMaps = append $configMaps .name -}}
{{- end -}}
{{- $_ := set $context "env_config_maps" $configMaps -}}
{{- $secrets := list -}}
{{- range $deployment.envSecrets -}}
{{- $secrets = append $secrets .name -}}
{{- end -}}
{{- with $secrets -}}
{{- $_ := set $context "env_secrets" . -}}
{{- end -}}
{{- range $key := list "volumes" "volumeMounts" "labels" "resources" "schedulerName" -}}
{{- with get $deployment $key -}}
{{- $_ := set $context (snakecase $key) . -}}
{{- end -}}
{{- end -}}
{{- if and $deployment.env (kindIs "slice" $deployment.env) -}}
{{- $_ := set $context "env" $deployment.env -}}
{{- end -}}
{{- $podSpec := dict "automount_service_account_token" true -}}
{{- with $deployment.sidecarContainers -}}
{{- $_ := set $podSpec "containers" . -}}
{{- end -}}
{{- with $deployment.initContainers -}}
{{- $_ := set $podSpec "init_containers" . -}}
{{- end -}}
{{- $runConfig := dict "pod_spec_config" $podSpec -}}
{{- with $deployment.annotations -}}
{{- $_ := set $runConfig "pod_template_spec_metadata" (dict "annotations" .) -}}
{{- end -}}
{{- $_ := set $context "run_k8s_config" $runConfig -}}
{{- dict "k8s" $context | toJson -}}
{{- end -}}

{{/*
A probe of a code server. Without a handler of its own it asks the gRPC health service that Dagster's server registers:
the kubelet does that itself, where `dagster api grpc-health-check` boots a Python interpreter each time.
Called with (list deployment probe).
*/}}
{{- define "dagsterUserDeployments.probe" -}}
{{- $probe := omit (index . 1) "enabled" -}}
{{- if not (or $probe.exec $probe.grpc $probe.httpGet $probe.tcpSocket) -}}
{{- $probe = merge (dict "grpc" (dict "port" (int (index . 0).port) "service" "DagsterApi")) $probe -}}
{{- end -}}
{{- toYaml $probe -}}
{{- end -}}
