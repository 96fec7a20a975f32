{{/* Names and labels of the database; `app` and `release` are what tools look for its pod by. */}}

{{- define "postgresql.fullname" -}}
{{- $own := printf "%s-%s" .Release.Name (.Values.nameOverride | default .Chart.Name) -}}
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
