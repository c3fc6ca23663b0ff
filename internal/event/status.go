package event

import (
	"errors"
	"net/http"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// Status gives the HTTP status that tells a broker what to do with an event
// whose handling ended with err. What can never succeed gets 400, 401, 403, 413
// or 422, which a broker dead-letters at once; the rest gets 429 or 503, which it
// tries again. 404, 408 and 409 are never given: brokers retry those, against
// all that they mean.
func Status(err error) int {
	if err == nil {
		return http.StatusAccepted
	}
	if errors.As(err, new(*http.MaxBytesError)) {
		return http.StatusRequestEntityTooLarge
	}
	switch fault.KindOf(err) {
	case fault.Invalid:
		return http.StatusBadRequest
	case fault.Denied:
		return http.StatusForbidden
	case fault.Unauthenticated:
		return http.StatusUnauthorized
	case fault.NotFound, fault.Conflict:
		return http.StatusUnprocessableEntity
	case fault.Overloaded:
		return http.StatusTooManyRequests
	default: // Internal too: a defect may be mended, or be another instance's
		return http.StatusServiceUnavailable
	}
}

// Retried tells whether a broker of Knative tries again after a status: after
// no answer (0), 404, 408, 409, 429 and from 500 on.
func Retried(status int) bool {
	switch status {
	case 0, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests:
		return true
	}
	return status >= http.StatusInternalServerError
}
