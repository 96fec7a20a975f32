{{/* What launching, watching and ending runs takes: the run launcher, the run monitor, k8s_job_executor and execute_k8s_job. */}}

{{/* Called with (list $ namespace). */}}
{{- define "dagster.rbac.rules" -}}
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, list, delete]
- apiGroups: [batch]
  resources: [jobs/status]
  verbs: [get]
# An executor reads its own pod to make it the owner of its steps; Pipes clients start bare pods. Both are done by runs, which have
# this account in its own namespace alone.
- apiGroups: [""]
  resources: [pods]
  verbs: [{{ if eq (index . 1) (index . 0).Release.Namespace }}create, get, {{ end }}list, delete]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [events]
  verbs: [list]
{{- end -}}

{{/* Called with (list $ name namespace). */}}
{{- define "dagster.rbac" -}}
{{- $root := index . 0 -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ index . 1 }}-role
  namespace: {{ index . 2 }}
  labels:
    {{- include "dagster.labels" $root | nindent 4 }}
rules:
  {{- include "dagster.rbac.rules" (list $root (index . 2)) | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ index . 1 }}-rolebinding
  namespace: {{ index . 2 }}
  labels:
    {{- include "dagster.labels" $root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ index . 1 }}-role
subjects:
  - kind: ServiceAccount
    name: {{ include "dagster.serviceAccountName" $root }}
    namespace: {{ $root.Release.Namespace }}
{{- end -}}
