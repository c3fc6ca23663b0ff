package auth

import "testing"

func TestTheLongestPatternCounts(t *testing.T) {
	rules := map[string]string{"*": "any", "fl*": "fl", "*ts": "ts", "flights": "itself", "flights-*": "regions", "*-eu-west": "places"}
	for name, want := range map[string]string{
		"": "", "fraud": "any", "fluff": "fl", "flights": "itself", "hats": "ts",
		"flats":           "ts", // as long as fl*, and before it by the alphabet
		"flights-eu-west": "places", "flights-us": "regions",
	} {
		for range 20 { // maps are read in any order
			if got, found := Longest(rules, name); got != want || found != (want != "") {
				t.Fatalf("%q: got %q, %t, want %q", name, got, found, want)
			}
		}
	}
	if got, found := Longest(map[string]int{"a*": 1}, "b"); found {
		t.Errorf("got %d", got)
	}
}
