{{/* The webserver's Deployment and Service, which exist once for use and, when asked for, once more for reading only. */}}

{{/* Called with (list $ readOnly). */}}
{{- define "dagster.webserver.command" -}}
{{- $root := index . 0 -}}
{{- $webserver := include "dagster.webserver" $root | fromJson -}}
- dagster-webserver
- -h
- 0.0.0.0
- -p
- {{ $webserver.service.port | int | quote }}
{{- if (index $root.Values "dagster-user-deployments").enabled }}
- -w
- /dagster-workspace/workspace.yaml
{{- end }}
{{- $flags := list
  (list "--db-statement-timeout" "dbStatementTimeout")
  (list "--db-pool-recycle" "dbPoolRecycle")
  (list "--db-pool-max-overflow" "dbPoolMaxOverflow")
  (list "--path-prefix" "pathPrefix")
  (list "--log-level" "logLevel")
  (list "--log-format" "logFormat") }}
{{- range $flag := $flags }}
{{- $value := get $webserver (index $flag 1) }}
{{- if not (or (kindIs "invalid" $value) (eq (toString $value) "")) }}
- {{ index $flag 0 }}
- {{ (kindIs "float64" $value) | ternary (int $value | toString) (toString $value) | quote }}
{{- end }}
{{- end }}
{{- if index . 1 }}
- --read-only
{{- end }}
{{- end -}}

{{/* Called with (list $ readOnly). */}}
{{- define "dagster.webserver.deployment" -}}
{{- $root := index . 0 -}}
{{- $webserver := include "dagster.webserver" $root | fromJson -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "dagster.webserver.fullname" . }}
  labels:
    {{- include "dagster.labels" $root | nindent 4 }}
    component: {{ include "dagster.webserver.component" . }}
    {{- with $webserver.deploymentLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $webserver.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  replicas: {{ $webserver.replicaCount | int }}
  selector:
    matchLabels:
      {{- include "dagster.selectorLabels" $root | nindent 6 }}
      component: {{ include "dagster.webserver.component" . }}
  template:
    metadata:
      labels:
        {{- include "dagster.selectorLabels" $root | nindent 8 }}
        component: {{ include "dagster.webserver.component" . }}
        {{- with $webserver.labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        {{- include "dagster.pod.checksums" $root | nindent 8 }}
        checksum/dagster-env: {{ list $webserver.env (include "dagster.sharedEnv" $root) | toJson | sha256sum }}
        {{- with $webserver.annotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      serviceAccountName: {{ include "dagster.serviceAccountName" $root }}
      automountServiceAccountToken: true
      {{- with $webserver.podSecurityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "dagster.pod.initContainers" (list $root $webserver) | trim }}
      initContainers:
        {{- . | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ $webserver.nameOverride | default "dagster-webserver" }}
          image: {{ include "dagster.image" (list $root $webserver.image) | quote }}
          imagePullPolicy: {{ $webserver.image.pullPolicy }}
          command:
            {{- include "dagster.webserver.command" . | nindent 12 }}
          env:
            {{- include "dagster.container.env" (list $root $webserver) | nindent 12 }}
          envFrom:
            {{- include "dagster.container.envFrom" (list $root $webserver (printf "%s-webserver-env" (include "dagster.fullname" $root))) | nindent 12 }}
          ports:
            - name: http
              containerPort: {{ $webserver.service.port | int }}
              protocol: TCP
          volumeMounts:
            {{- include "dagster.container.volumeMounts" (list $root $webserver) | nindent 12 }}
          {{- with $webserver.securityContext }}
          securityContext:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with $webserver.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          {{- with include "dagster.container.probes" $webserver | trim }}
          {{- . | nindent 10 }}
          {{- end }}
        {{- with $webserver.extraContainers }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumes:
        {{- include "dagster.pod.volumes" (list $root $webserver) | nindent 8 }}
      {{- with include "dagster.pod.scheduling" $webserver | trim }}
      {{- . | nindent 6 }}
      {{- end }}
{{- end -}}

{{/* Called with (list $ readOnly). */}}
{{- define "dagster.webserver.service" -}}
{{- $root := index . 0 -}}
{{- $webserver := include "dagster.webserver" $root | fromJson -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "dagster.webserver.fullname" . }}
  labels:
    {{- include "dagster.labels" $root | nindent 4 }}
    component: {{ include "dagster.webserver.component" . }}
  {{- with $webserver.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $webserver.service.type }}
  ports:
    - name: http
      port: {{ $webserver.service.port | int }}
      targetPort: http
      protocol: TCP
  selector:
    {{- include "dagster.selectorLabels" $root | nindent 4 }}
    component: {{ include "dagster.webserver.component" . }}
{{- end -}}
