{{/* Names, labels and pod fragments that more than one template of this chart needs. */}}

{{- define "dagster.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dagster.fullname" -}}
{{- $global := .Values.global | default dict -}}
{{- $override := $global.fullnameOverride | default .Values.fullnameOverride -}}
{{- $name := $global.nameOverride | default .Values.nameOverride | default .Chart.Name -}}
{{- $own := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- $override | default $own | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dagster.chart" -}}
{{- printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "dagster.selectorLabels" -}}
app.kubernetes.io/name: {{ include "dagster.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "dagster.labels" -}}
helm.sh/chart: {{ include "dagster.chart" . }}
{{ include "dagster.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Called with (list $ image). A digest wins over the tag; an image without either is Dagster's own and follows appVersion. */}}
{{- define "dagster.image" -}}
{{- $image := index . 1 -}}
{{- with $image.registry -}}{{ . }}/{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository ($image.tag | default (index . 0).Chart.AppVersion | include "dagster.text") -}}
{{- end -}}
{{- end -}}

{{/* A plain value as text. All numbers of values are floating point here, and a large one would be written as 1e+06. */}}
{{- define "dagster.text" -}}
{{- if kindIs "float64" . -}}{{ toJson . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}

{{/* JSON of a map with its top-level keys in the snake case that dagster.yaml uses; keys without a value are left out. */}}
{{- define "dagster.snakecase" -}}
{{- $out := dict -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $_ := set $out (snakecase $key) $value -}}
{{- end -}}
{{- end -}}
{{- toJson $out -}}
{{- end -}}

{{/* JSON of the webserver's values. `dagit` is what the webserver was called before; what stands there still counts. */}}
{{- define "dagster.webserver" -}}
{{- mergeOverwrite (deepCopy .Values.dagsterWebserver) (.Values.dagit | default dict) | toJson -}}
{{- end -}}

{{/* Called with (list $ readOnly). */}}
{{- define "dagster.webserver.fullname" -}}
{{- $root := index . 0 -}}
{{- $webserver := include "dagster.webserver" $root | fromJson -}}
{{- $name := printf "%s-%s" $root.Release.Name ($webserver.nameOverride | default "webserver") | trunc 53 | trimSuffix "-" -}}
{{- ternary (printf "%s-read-only" $name) $name (index . 1) -}}
{{- end -}}

{{/* Called with (list $ readOnly). */}}
{{- define "dagster.webserver.component" -}}
{{- ternary "dagster-webserver-read-only" "dagster-webserver" (index . 1) -}}
{{- end -}}

{{- define "dagster.serviceAccountName" -}}
{{- $global := .Values.global | default dict -}}
{{- $global.serviceAccountName | default .Values.serviceAccount.name | default (include "dagster.fullname" .) -}}
{{- end -}}

{{- define "dagster.jobNamespace" -}}
{{- $config := .Values.runLauncher.config -}}
{{- $launcher := dict -}}
{{- if eq .Values.runLauncher.type "K8sRunLauncher" -}}
{{- $launcher = $config.k8sRunLauncher | default dict -}}
{{- else if include "dagster.celery.enabled" . -}}
{{- $launcher = $config.celeryK8sRunLauncher | default dict -}}
{{- end -}}
{{- $launcher.jobNamespace | default .Release.Namespace -}}
{{- end -}}

{{/* What a chart below calls its objects. Called with (list $ its-values its-name length), the length that of name and release together. */}}
{{- define "dagster.serviceBelow" -}}
{{- $name := (index . 1).nameOverride | default (index . 2) -}}
{{- $release := (index . 0).Release.Name | trunc (int (max 1 (sub (index . 3) (len $name)))) | trimSuffix "-" -}}
{{- (index . 1).fullnameOverride | default (printf "%s-%s" $release $name) | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/*
The database as every Dagster process sees it. Run pods get the instance, host included, in their arguments: where they
run in another namespace, the short name of the Service would not resolve.
*/}}
{{- define "dagster.postgresql.host" -}}
{{- $service := include "dagster.serviceBelow" (list . .Values.postgresql "postgresql" 51) -}}
{{- if ne (include "dagster.jobNamespace" .) .Release.Namespace -}}
{{- $service = printf "%s.%s.svc" $service .Release.Namespace -}}
{{- end -}}
{{- .Values.postgresql.postgresqlHost | default $service -}}
{{- end -}}

{{- define "dagster.postgresql.secretName" -}}
{{- $global := .Values.global | default dict -}}
{{- $global.postgresqlSecretName | default (printf "%s-postgresql-secret" (include "dagster.fullname" .)) -}}
{{- end -}}

{{- define "dagster.instance.configmapName" -}}
{{- $global := .Values.global | default dict -}}
{{- $global.dagsterInstanceConfigMap | default (printf "%s-instance" (include "dagster.fullname" .)) -}}
{{- end -}}

{{- define "dagster.workspace.configmapName" -}}
{{- $workspace := (include "dagster.webserver" . | fromJson).workspace -}}
{{- if and $workspace.enabled $workspace.externalConfigmap -}}
{{- $workspace.externalConfigmap -}}
{{- else -}}
{{- printf "%s-workspace-yaml" (include "dagster.fullname" .) -}}
{{- end -}}
{{- end -}}

{{/* What every long-running Dagster container of this chart has in its environment, as ConfigMap data. */}}
{{- define "dagster.sharedEnv" -}}
DAGSTER_HOME: {{ .Values.global.dagsterHome | quote }}
DAGSTER_K8S_PIPELINE_RUN_NAMESPACE: {{ include "dagster.jobNamespace" . | quote }}
DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP: {{ printf "%s-pipeline-env" (include "dagster.fullname" .) | quote }}
DAGSTER_K8S_PIPELINE_RUN_IMAGE: {{ include "dagster.image" (list . .Values.pipelineRun.image) | quote }}
DAGSTER_K8S_PIPELINE_RUN_IMAGE_PULL_POLICY: {{ .Values.pipelineRun.image.pullPolicy | quote }}
{{- end -}}

{{/* ConfigMap data of an `env` that is a map; an `env` that is a list goes into the container as it is. */}}
{{- define "dagster.envData" -}}
{{- if kindIs "map" . -}}
{{- range $key, $value := . }}
{{ $key }}: {{ include "dagster.text" $value | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Called with (list $ component-values). */}}
{{- define "dagster.container.env" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
- name: DAGSTER_PG_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "dagster.postgresql.secretName" $root }}
      key: postgresql-password
{{- if kindIs "slice" $component.env }}
{{- with $component.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Called with (list $ component-values own-configmap-name). */}}
{{- define "dagster.container.envFrom" -}}
- configMapRef:
    name: {{ index . 2 }}
{{- range (index . 1).envConfigMaps }}
- configMapRef:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- range (index . 1).envSecrets }}
- secretRef:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- /* The instance names its broker by these variables, so none can load it without them. */}}
{{- if include "dagster.celery.enabled" (index . 0) }}
- secretRef:
    name: {{ include "dagster.celery.secretName" (index . 0) }}
{{- end }}
{{- end -}}

{{/* Called with (list $ component-values). */}}
{{- define "dagster.pod.initContainers" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- with $component.extraPrependedInitContainers }}
{{ toYaml . }}
{{- end }}
{{- if ne $component.checkDbReadyInitContainer false }}
- name: check-db-ready
  image: {{ include "dagster.image" (list $root $root.Values.postgresql.image) | quote }}
  imagePullPolicy: {{ $root.Values.postgresql.image.pullPolicy }}
  command:
    - sh
    - -c
    - >-
      until pg_isready -t 1 -h "$PGHOST" -p "$PGPORT" -U "$PGUSER" -d "$PGDATABASE";
      do sleep 0.5; done
  env:
    - name: PGHOST
      value: {{ include "dagster.postgresql.host" $root | quote }}
    - name: PGPORT
      value: {{ $root.Values.postgresql.service.port | int | quote }}
    - name: PGUSER
      value: {{ $root.Values.postgresql.postgresqlUsername | quote }}
    - name: PGDATABASE
      value: {{ $root.Values.postgresql.postgresqlDatabase | quote }}
  {{- with $component.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $component.initContainerResources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Called with (list $ component-values). */}}
{{- define "dagster.container.volumeMounts" -}}
{{- $root := index . 0 -}}
- name: dagster-instance
  mountPath: {{ printf "%s/dagster.yaml" $root.Values.global.dagsterHome | quote }}
  subPath: dagster.yaml
  readOnly: true
{{- if (index $root.Values "dagster-user-deployments").enabled }}
# A whole folder, not a subPath: only so does a change of an external ConfigMap reach a running pod.
- name: dagster-workspace-yaml
  mountPath: /dagster-workspace/
  readOnly: true
{{- end }}
{{- with (index . 1).volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Called with (list $ component-values). */}}
{{- define "dagster.pod.volumes" -}}
{{- $root := index . 0 -}}
- name: dagster-instance
  configMap:
    name: {{ include "dagster.instance.configmapName" $root }}
{{- if (index $root.Values "dagster-user-deployments").enabled }}
- name: dagster-workspace-yaml
  configMap:
    name: {{ include "dagster.workspace.configmapName" $root }}
{{- end }}
{{- with (index . 1).volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The scheduling keys of a pod's spec. Called with the component's values. */}}
{{- define "dagster.pod.scheduling" -}}
{{- range $key := list "nodeSelector" "affinity" "tolerations" "schedulerName" }}
{{- with get $ $key }}
{{ $key }}: {{ toJson . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The probes of a container; a startupProbe has a switch of its own. Called with the component's values. */}}
{{- define "dagster.container.probes" -}}
{{- range $key := list "readinessProbe" "livenessProbe" "startupProbe" }}
{{- $probe := get $ $key | default dict }}
{{- if ne $probe.enabled false }}
{{- with omit $probe "enabled" }}
{{ $key }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Checksums over what a process reads only when it starts, so that a changed configuration restarts its pods. */}}
{{- define "dagster.pod.checksums" -}}
checksum/dagster-instance: {{ include "dagster.instance" . | sha256sum }}
checksum/dagster-workspace: {{ include "dagster.workspace" . | sha256sum }}
{{- if include "dagster.celery.enabled" . }}
checksum/dagster-celery: {{ include "dagster.celery.secretData" . | sha256sum }}
{{- end }}
{{- end -}}
