// Package triggers holds how events flow: the broker, the triggers with their
// filters, the ticks. The cluster applies these files, and the broker in the
// process of functions/all (internal/event/bus) reads the same.
package triggers

import "embed"

// Files are the manifests.
//
//go:embed *.yaml
var Files embed.FS
