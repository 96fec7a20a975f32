{{/* Names and labels of the broker; `app` and `release` are what tools look for its pod by. */}}

{{- define "rabbitmq.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- /* The StatefulSet's name may have 52 characters; cut off is what all of the release's have in common. */ -}}
{{- $own := printf "%s-%s" (.Release.Name | trunc (int (max 1 (sub 51 (len $name)))) | trimSuffix "-") $name -}}
{{- .Values.fullnameOverride | default $own | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "rabbitmq.headless" -}}
{{- include "rabbitmq.fullname" . | trunc 54 | trimSuffix "-" -}}-headless
{{- end -}}

{{- define "rabbitmq.selectorLabels" -}}
app: rabbitmq
release: {{ .Release.Name | quote }}
{{- end -}}

{{- define "rabbitmq.labels" -}}
{{ include "rabbitmq.selectorLabels" . }}
chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
heritage: {{ .Release.Service | quote }}
{{- end -}}

{{- define "rabbitmq.image" -}}
{{- with .Values.image.registry -}}{{ . }}/{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (include "rabbitmq.text" .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A plain value as text. All numbers of values are floating point here, and a large one would be written as 1e+06. */}}
{{- define "rabbitmq.text" -}}
{{- if kindIs "float64" . -}}{{ toJson . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}
