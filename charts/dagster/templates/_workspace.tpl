{{/* workspace.yaml: where the webserver and the daemon find the code servers. */}}

{{- define "dagster.workspace" -}}
{{- $workspace := (include "dagster.webserver" . | fromJson).workspace -}}
{{- $servers := list -}}
{{- if $workspace.enabled -}}
{{- range $workspace.servers -}}
{{- $server := dict "host" .host "port" (int .port) "location_name" (.name | default .host) -}}
{{- if .ssl -}}
{{- $_ := set $server "ssl" true -}}
{{- end -}}
{{- $servers = append $servers (dict "grpc_server" $server) -}}
{{- end -}}
{{- else -}}
{{- range $name, $deployment := include "dagster.userDeployments" . | fromJson -}}
{{- $servers = append $servers (dict "grpc_server" (dict "host" $name "port" (int $deployment.port) "location_name" $name)) -}}
{{- end -}}
{{- end -}}
{{- dict "load_from" $servers | toYaml -}}
{{- end -}}

{{/* JSON of the user code deployments by name; the values give them as a list or as a map. */}}
{{- define "dagster.userDeployments" -}}
{{- $given := (index .Values "dagster-user-deployments").deployments | default dict -}}
{{- if kindIs "slice" $given -}}
{{- $byName := dict -}}
{{- range $given -}}
{{- $_ := set $byName .name . -}}
{{- end -}}
{{- toJson $byName -}}
{{- else -}}
{{- toJson $given -}}
{{- end -}}
{{- end -}}
