package auth

import (
	"path"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// wordBytes are what the names of models and tenants have.
const wordBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// CheckPattern refuses what is neither the name of a model or tenant nor a pattern of names, in which * stands for any characters.
func CheckPattern(pattern string) error {
	if pattern == "" || len(pattern) > 100 || strings.Trim(pattern, wordBytes+"*") != "" {
		return fault.New(fault.Invalid, "%.60q is no name or pattern; * stands for any characters", pattern)
	}
	return nil
}

// matches tells whether a name fits a pattern.
func matches(pattern, name string) bool {
	if pattern == "*" || pattern == name {
		return true
	}
	ok, err := path.Match(pattern, name) // of which CheckPattern lets through * alone
	return ok && err == nil
}

// Longest gives what holds for a name, of rules by pattern: that of the name itself, else that of the longest pattern that fits
// and, of equally long ones, of the first by the alphabet, so that all processes choose the same. "" has none.
func Longest[T any](rules map[string]T, name string) (rule T, found bool) {
	if name == "" {
		return rule, false
	}
	if rule, found = rules[name]; found {
		return rule, true
	}
	best := ""
	for pattern, r := range rules {
		if matches(pattern, name) && (len(pattern) > len(best) || len(pattern) == len(best) && pattern < best) {
			best, rule, found = pattern, r, true
		}
	}
	return rule, found
}
