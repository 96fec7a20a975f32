{{/* Celery: who its broker is, and what its workers are called and made of. */}}

{{/* "true" when steps are given to Celery workers, else nothing. */}}
{{- define "dagster.celery.enabled" -}}
{{- if eq .Values.runLauncher.type "CeleryK8sRunLauncher" -}}true{{- end -}}
{{- end -}}

{{- define "dagster.celery.secretName" -}}
{{- .Values.global.celeryConfigSecretName | default (printf "%s-celery-config-secret" (include "dagster.fullname" .)) -}}
{{- end -}}

{{/* Called with (list $ queue-name). */}}
{{- define "dagster.celery.workers.fullname" -}}
{{- $root := index . 0 -}}
{{- $launcher := $root.Values.runLauncher.config.celeryK8sRunLauncher -}}
{{- printf "%s-%s-%s" $root.Release.Name ($launcher.nameOverride | default "celery-workers") (index . 1) -}}
{{- end -}}

{{/* A Service of this release as run pods see it, who may be in another namespace. Called with (list $ service). */}}
{{- define "dagster.celery.service" -}}
{{- $root := index . 0 -}}
{{- $service := index . 1 -}}
{{- if ne (include "dagster.jobNamespace" $root) $root.Release.Namespace -}}
{{- $service = printf "%s.%s.svc" $service $root.Release.Namespace -}}
{{- end -}}
{{- $service -}}
{{- end -}}

{{/* Called with (list $ url database): the given URL, or one of the values' parts. */}}
{{- define "dagster.celery.redisUrl" -}}
{{- $root := index . 0 -}}
{{- $redis := $root.Values.redis -}}
{{- if index . 1 -}}
{{- index . 1 -}}
{{- else -}}
{{- $service := printf "%s-master" (include "dagster.serviceBelow" (list $root $redis "redis" 44) | trunc 56 | trimSuffix "-") -}}
{{- $host := $redis.host | default (include "dagster.celery.service" (list $root $service)) -}}
{{- $password := ternary (printf ":%s@" (urlquery $redis.password)) "" $redis.usePassword -}}
{{- printf "redis://%s%s:%d/%d" $password $host (int $redis.port) (int (index . 2)) -}}
{{- end -}}
{{- end -}}

{{- define "dagster.celery.brokerUrl" -}}
{{- if .Values.rabbitmq.enabled -}}
{{- $rabbitmq := .Values.rabbitmq.rabbitmq -}}
{{- $host := include "dagster.celery.service" (list . (include "dagster.serviceBelow" (list . .Values.rabbitmq "rabbitmq" 51))) -}}
{{- printf "pyamqp://%s:%s@%s:%d//" (urlquery $rabbitmq.username) (urlquery $rabbitmq.password) $host (int .Values.rabbitmq.service.port) -}}
{{- else -}}
{{- include "dagster.celery.redisUrl" (list . .Values.redis.brokerUrl .Values.redis.brokerDbNumber) -}}
{{- end -}}
{{- end -}}

{{- define "dagster.celery.backendUrl" -}}
{{- if .Values.rabbitmq.enabled -}}
rpc://
{{- else -}}
{{- include "dagster.celery.redisUrl" (list . .Values.redis.backendUrl .Values.redis.backendDbNumber) -}}
{{- end -}}
{{- end -}}

{{/* Data of the Secret that names broker and backend, where this release makes it. */}}
{{- define "dagster.celery.secretData" -}}
{{- if .Values.generateCeleryConfigSecret -}}
DAGSTER_CELERY_BROKER_URL: {{ include "dagster.celery.brokerUrl" . | b64enc | quote }}
DAGSTER_CELERY_BACKEND_URL: {{ include "dagster.celery.backendUrl" . | b64enc | quote }}
{{- end -}}
{{- end -}}

{{/* celery.yaml of one queue's workers; what the queue sets wins over what is set for all. Called with (list $ queue). */}}
{{- define "dagster.celery.config" -}}
{{- $launcher := (index . 0).Values.runLauncher.config.celeryK8sRunLauncher -}}
{{- $own := deepCopy ((index . 1).configSource | default dict) -}}
execution:
  celery:
    broker:
      env: DAGSTER_CELERY_BROKER_URL
    backend:
      env: DAGSTER_CELERY_BACKEND_URL
    config_source: {{ mergeOverwrite (deepCopy ($launcher.configSource | default dict)) $own | toJson }}
{{- end -}}

{{/*
Waits for the broker as a worker will reach it, login included, and in the worker's own image: so any broker will do that
Celery knows. Called with (list $ celery-values).
*/}}
{{- define "dagster.celery.checkBroker" -}}
{{- $root := index . 0 -}}
{{- $launcher := index . 1 -}}
- name: check-broker-ready
  image: {{ include "dagster.image" (list $root $launcher.image) | quote }}
  imagePullPolicy: {{ $launcher.image.pullPolicy }}
  command:
    - python3
    - -c
    - |
      import os
      from kombu import Connection
      with Connection(os.environ["BROKER_URL"], connect_timeout=5) as connection:
          connection.ensure_connection(errback=lambda error, seconds: print(error, flush=True), interval_start=0.5, interval_step=0, interval_max=0.5)
  env:
    - name: BROKER_URL
      valueFrom:
        secretKeyRef:
          name: {{ include "dagster.celery.secretName" $root }}
          key: DAGSTER_CELERY_BROKER_URL
  {{- with $launcher.securityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{/*
The worker's probes. One without a handler asks how long ago the worker last said that it consumes (files/dagster_celery_consuming.py).
Called with (list $ celery-values).
*/}}
{{- define "dagster.celery.probes" -}}
{{- $file := include "dagster.celery.consumingFile" (index . 0) -}}
{{- $launcher := index . 1 -}}
{{- range $key, $seconds := dict "startupProbe" 6 "readinessProbe" 6 "livenessProbe" 60 }}
{{- $probe := get $launcher $key | default dict }}
{{- if and $probe (ne $probe.enabled false) }}
{{- $probe = omit $probe "enabled" }}
{{- if not (or $probe.exec $probe.grpc $probe.httpGet $probe.tcpSocket) }}
{{- $newer := printf "find %s -newermt '-%d seconds' | grep -q ." $file $seconds }}
{{- $probe = merge (dict "exec" (dict "command" (list "/bin/sh" "-c" $newer))) $probe }}
{{- end }}
{{ $key }}:
  {{- toYaml $probe | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "dagster.celery.consumingFile" -}}
{{- .Values.global.dagsterHome }}/celery-consuming
{{- end -}}

{{- define "dagster.celery.pidFile" -}}
{{- .Values.global.dagsterHome }}/celery.pid
{{- end -}}

{{- define "dagster.flower.service" -}}
{{- include "dagster.fullname" . | trunc 48 | trimSuffix "-" -}}-flower-service
{{- end -}}

{{- define "dagster.flower.fullname" -}}
{{- printf "%s-%s" .Release.Name (.Values.flower.nameOverride | default "flower") | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Refuses what would leave runs waiting for ever, or pods restarting. */}}
{{- define "dagster.celery.validate" -}}
{{- $launcher := .Values.runLauncher.config.celeryK8sRunLauncher -}}
{{- if and .Values.rabbitmq.enabled .Values.redis.enabled -}}
{{- fail "rabbitmq and redis are both enabled, and Celery has one broker: enable one of them" -}}
{{- end -}}
{{- if and .Values.redis.internal (not .Values.redis.enabled) -}}
{{- fail "redis.internal deploys a Redis that nobody uses: set redis.enabled too, or switch redis.internal off" -}}
{{- end -}}
{{- if .Values.generateCeleryConfigSecret -}}
{{- if not (or .Values.rabbitmq.enabled .Values.redis.enabled) -}}
{{- fail (printf "Celery has no broker: enable rabbitmq or redis; or make the Secret %s yourself and set generateCeleryConfigSecret to false" (include "dagster.celery.secretName" .)) -}}
{{- end -}}
{{- if and .Values.redis.enabled (not .Values.redis.internal) (not .Values.redis.host) (not (and .Values.redis.brokerUrl .Values.redis.backendUrl)) -}}
{{- fail "redis.internal is false: name your own server in redis.host, or in redis.brokerUrl and redis.backendUrl" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.dagsterDaemon.enabled .Values.dagsterDaemon.runMonitoring.enabled (gt (int .Values.dagsterDaemon.runMonitoring.maxResumeRunAttempts) 0) -}}
{{- fail "dagsterDaemon.runMonitoring.maxResumeRunAttempts is more than 0, with which no process starts under the CeleryK8sRunLauncher, as its runs cannot be resumed: set it to 0" -}}
{{- end -}}
{{- $names := list -}}
{{- range $launcher.workerQueues -}}
{{- if has .name $names -}}
{{- fail (printf "two queues of celeryK8sRunLauncher.workerQueues are called %s: give each a name of its own" .name) -}}
{{- end -}}
{{- $names = append $names .name -}}
{{- end -}}
{{- end -}}
