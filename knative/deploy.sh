#!/bin/bash
# Puts Pilotlight on the cluster that KUBECONFIG names, or takes it off. make calls it; see `make help`.
#
#   deploy.sh render     print the manifests of OVERLAY and COMPONENTS, images still to be built
#   deploy.sh deploy     build the images, apply all, wait; with OVERLAY=dev also push the flights model and ask it
#   deploy.sh why        tell what is not ready, and the reason that the cluster gives
#   deploy.sh undeploy   delete all of it, the namespace and the claims with everything in them included
#
# From the environment:
#   OVERLAY, COMPONENTS   folders below overlays/; components are added to the overlay
#   NAMESPACE             where all of it goes
#   REDIS_IMAGE S3_IMAGE  other images for OVERLAY=dev than the public ones
#   COLLECTOR_IMAGE       another image for COMPONENTS=collector, such as the one that make collector-image builds
#   POD_LOGS              where nodes keep the logs of pods, if not in /var/log/pods
#   KNATIVE_INGRESS_URL   how the ingress is reached from here; empty: by the URLs that Knative gives its services
#   KUBECONFIG, KO_*      as kubectl and ko read them
set -eu -o pipefail
cd "$(dirname "$0")/.."

export KO_CONFIG_PATH=${KO_CONFIG_PATH:-ko.yaml}
: "${OVERLAY:=dev}" "${COMPONENTS:=}" "${NAMESPACE:=pilotlight}" "${REDIS_IMAGE:=}" "${S3_IMAGE:=}" "${COLLECTOR_IMAGE:=}" "${POD_LOGS:=/var/log/pods}" "${KNATIVE_INGRESS_URL:=}"
k() { kubectl -n "$NAMESPACE" "$@"; }

# image NAME NEW is the line of a Kustomization that has image NAME replaced, unless NEW is empty.
image() {
	[ -n "$2" ] || return 0
	local name=$2 tag=latest
	case $2 in *@*)
		echo "  - {name: $1, newName: ${2%%[@]*}, digest: ${2##*@}}"
		return
		;;
	esac
	case ${2##*/} in *:*) tag=${2##*:} name=${2%:*} ;; esac
	echo "  - {name: $1, newName: $name, newTag: $tag}"
}

render() {
	local dir c
	dir=$(mktemp -d knative/overlays/.run.XXXXXX) # beside the overlays, since kustomize takes relative paths only
	# shellcheck disable=SC2064 # the folder of now
	trap "rm -rf '$dir'" RETURN
	{
		echo "resources: [../$OVERLAY]"
		echo "namespace: $NAMESPACE"
		echo "components:"
		for c in $COMPONENTS; do echo "  - ../$c"; done
		echo "images:"
		image redis "$REDIS_IMAGE"
		image versity/versitygw "$S3_IMAGE"
		image otel/opentelemetry-collector-contrib "$COLLECTOR_IMAGE"
	} >"$dir/Kustomization"
	local yaml hash
	yaml=$(kubectl kustomize --load-restrictor LoadRestrictionsNone "$dir") || return
	# Names inside of values, which kustomize does not know for any.
	yaml=$(sed -e "s/\.pilotlight\.svc\./.$NAMESPACE.svc./" -e "s/serviceaccount:pilotlight:/serviceaccount:$NAMESPACE:/" \
		-e "s#\(job-sink\.[^/]*\)/pilotlight/#\1/$NAMESPACE/#" -e "s#^\( *\)path: /var/log/pods\$#\1path: $POD_LOGS#" <<<"$yaml")
	# The ConfigMap is named by its content: a change makes a new revision, and old revisions keep their values.
	hash=$(awk 'BEGIN {RS = "---\n"} /\nkind: ConfigMap\n/ && /\n  name: pilotlight-config\n/' <<<"$yaml" | sha256sum | cut -c1-10)
	sed -E "s/^( *name: pilotlight-config)\$/\1-$hash/" <<<"$yaml"
}

# ask METHOD PATH [CURL OPTIONS]: a call of predict through the ingress.
ask() {
	local method=$1 path=$2
	shift 2
	curl -sS --max-time 60 -X "$method" "${to[@]}" "$@" "$base$path"
}

# why tells which nodes, services and pods are not as they should be, in a line each, and what is last in the logs of
# such pods.
why() {
	local each='{{range .items}}{{$o := printf "%s %s" .kind .metadata.name}}{{range .status.conditions}}'
	local tell='{{$o}}: {{.type}} is {{.status}}{{with .reason}}, {{.}}{{end}}{{with .message}}: {{.}}{{end}}{{"\n"}}'
	local unready='{{if and (eq .type "Ready") (ne .status "True") (ne (print .reason) "PodCompleted")}}'
	local pod container
	# A node ought to be Ready and nothing else, such as DiskPressure, for which it takes no pods.
	kubectl get nodes -o go-template="$each"'{{if eq (eq .type "Ready") (ne .status "True")}}'"$tell{{end}}{{end}}{{end}}" || true
	k get brokers,triggers,ksvc,revisions.serving.knative.dev,pods -o go-template="$each$unready$tell{{end}}{{end}}{{end}}" || true
	# Knative's own container asks ours whether it is ready; what keeps it from that stands in our log.
	k get pods -o go-template='{{range .items}}{{$p := .}}{{range .status.conditions}}'"$unready"'{{range $p.spec.containers}}{{if ne .name "queue-proxy"}}{{$p.metadata.name}} {{.name}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}{{end}}' |
		while read -r pod container; do
			printf '%s of pod %s:\n' "$container" "$pod"
			k logs "$pod" -c "$container" --tail=5 </dev/null || true
		done
}

# ready WHAT...: wait until that is so, and tell why where it does not become so.
ready() {
	k wait --for=condition=Ready "$@" && return
	{
		printf '\nNot all of %s is ready:\n\n' "$NAMESPACE"
		why
	} >&2
	return 1
}

deploy() {
	local url host
	kubectl create namespace "$NAMESPACE" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
	if [ "$OVERLAY" = dev ] && ! k get secret pilotlight-s3 >/dev/null 2>&1; then
		random() { head -c 20 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
		k create secret generic pilotlight-s3 --from-literal=AWS_ACCESS_KEY_ID="$(random)" --from-literal=AWS_SECRET_ACCESS_KEY="$(random)"
	fi
	render | ko apply --base-import-paths -f -
	[ "$OVERLAY" != dev ] || k rollout status deployment/redis deployment/s3 --timeout=3m
	case " $COMPONENTS " in *" collector "*) k rollout status deployment/collector daemonset/collector-logs --timeout=3m ;; esac
	# The binding gives the services a variable, which makes new revisions of those that came before it.
	ready broker/pilotlight sinkbinding/functions-to-broker jobsink/steps --timeout=3m
	ready ksvc/predict ksvc/features ksvc/deadletter ksvc/feedback ksvc/gateway ksvc/pipeline --timeout=5m
	ready triggers --all --timeout=3m
	[ "$OVERLAY" = dev ] || return 0

	url=$(k get ksvc predict -o 'jsonpath={.status.url}') host=${url#*://}
	base=$url to=()
	if [ -n "$KNATIVE_INGRESS_URL" ]; then
		base=$KNATIVE_INGRESS_URL to=(-H "Host: $host")
	fi
	local example=examples/flights status
	status=$(ask GET /v2/models/flights -o /dev/null -w '%{http_code}')
	if [ "$status" = 404 ]; then
		ask POST /admin/v1/models/flights/versions --fail-with-body -o /dev/null \
			-F "settings={\"by\":\"make deploy\",\"warmup\":{\"sample\":$(<"$example/complete.json")}}" -F "model=@$example/flights.onnx"
	fi
	printf '\nPilotlight answers on %s. Ask it for a prediction:\n\n  curl -s%s %s/v2/models/flights/infer -d @%s/complete.json\n\n' \
		"$url" "${to:+ -H '${to[1]}'}" "$base" "$example"
	ask POST /v2/models/flights/infer --fail-with-body -d "@$example/complete.json"
}

undeploy() {
	# Pods first: while one drains, Kubernetes looks at its namespace again only after half of the pod's grace period.
	local pods
	k delete ksvc,deployment,daemonset,jobs --all --wait=false
	pods=$(k get pods -o name)
	# shellcheck disable=SC2086 # one word each
	[ -z "$pods" ] || k wait --for=delete --timeout=6m $pods
	render | kubectl delete --ignore-not-found -f -
}

case ${1-} in
render | deploy | why) "$1" ;;
undeploy) undeploy ;;
*)
	sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2
	exit 2
	;;
esac
