{{/* Names and labels of the database; `app` and `release` are what tools look for its pod by. */}}

{{- define "postgresql.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- /* The StatefulSet's name may have 52 characters; cut off is what all of the release's have in common. */ -}}
{{- $own := printf "%s-%s" (.Release.Name | trunc (int (max 1 (sub 51 (len $name)))) | trimSuffix "-") $name -}}
{{- .Values.fullnameOverride | default $own | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "postgresql.secretName" -}}
{{- (.Values.global | default dict).postgresqlSecretName | default (include "postgresql.fullname" .) -}}
{{- end -}}

{{- define "postgresql.selectorLabels" -}}
app: postgresql
release: {{ .Release.Name | quote }}
role: master
{{- end -}}

{{- define "postgresql.labels" -}}
{{ include "postgresql.selectorLabels" . }}
chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
heritage: {{ .Release.Service | quote }}
{{- end -}}

{{- define "postgresql.image" -}}
{{- with .Values.image.registry -}}{{ . }}/{{- end -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (include "postgresql.text" .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{/* A plain value as text. All numbers of values are floating point here, and a large one would be written as 1e+06. */}}
{{- define "postgresql.text" -}}
{{- if kindIs "float64" . -}}{{ toJson . }}{{- else -}}{{ toString . }}{{- end -}}
{{- end -}}
