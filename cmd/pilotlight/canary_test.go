package main

import (
	"testing"

	"github.com/pilotlight-ml/pilotlight/internal/predict/predicttest"
)

// A canary by hand, as somebody at a terminal sees it.
func TestCanary(t *testing.T) {
	c := cli{t, predicttest.Start(t, nil, nil)}
	for _, file := range [][]byte{same, neg, same} {
		if _, err := run(t, "", "model", "push", "m", write(t, file), "--server", c.s.URL); err != nil {
			t.Fatal(err)
		}
	}
	c.prints("champion: 1 -> 1 + 2 as shadow (move 2)\n", "model", "shadow", "m", "2", "--why", "a look")
	c.prints("champion already names version 1 + 2 as shadow\n", "model", "shadow", "m", "2")
	c.prints("champion: 1 + 2 as shadow -> 1 + 2 at 5% (move 3)\n", "model", "canary", "m", "2", "--share", "5%")
	c.prints("champion: 1 + 2 at 5% -> 1 + 2 at 12.5% (move 4)\n", "model", "canary", "m", "2", "--share", "0.125")
	c.prints("champion: 1 + 2 at 12.5% -> 1 + 2 at 12.5% + 3 as shadow (move 5)\n", "model", "shadow", "m", "3", "--alias", "champion")
	c.prints("NAME  VERSIONS  NEWEST  ALIASES\nm  3  3  champion=1+2@12.5%+3@shadow\n", "model", "list")
	c.prints(`VERSION  ALIASES  SIZE  CREATED  BY  LABELS  DIGEST
3  champion@shadow  105 B  TIME  ME  DIG
2  champion@12.5%  100 B  TIME  ME  DIG
1  champion@87.5%  105 B  TIME  ME  DIG

version 3 takes and gives
  input  X FP32 [-1]
  output Y FP32 [-1]

MOVE  ALIAS  FROM  TO  WHEN  BY  WHY
5  champion  1 + 2 at 12.5%  1 + 2 at 12.5% + 3 as shadow  TIME  ME  
4  champion  1 + 2 at 5%  1 + 2 at 12.5%  TIME  ME  
3  champion  1 + 2 as shadow  1 + 2 at 5%  TIME  ME  
2  champion  1  1 + 2 as shadow  TIME  ME  a look
1  champion  -  1  TIME  ME  first version
`, "model", "show", "m")
	c.prints("champion: 1 + 2 at 12.5% + 3 as shadow -> 2 + 3 as shadow (move 6)\n", "model", "promote", "m", "--why", "better")
	c.prints("champion: 2 + 3 as shadow -> 1 (move 7)\n", "model", "rollback", "m")
	c.prints("champion: 1 -> 1 + 2 as shadow (move 8)\n", "model", "shadow", "m", "2")
	c.prints("champion: 1 + 2 as shadow -> 1 (move 9)\n", "model", "shadow", "m", "--end")
	c.prints("champion: 1 -> 1 + 3 at 50% (move 10)\n", "model", "canary", "m", "3", "--share", "50%")
	c.prints("champion: 1 + 3 at 50% -> 1 (move 11)\n", "model", "canary", "m", "3", "--end")
	c.prints("champion already names version 1\n", "model", "canary", "m", "3", "--end")
	c.prints("champion: 1 -> 1 + 3 at 50% (move 12)\n", "model", "canary", "m", "3", "--share", "50%")
	c.prints("champion: 1 + 3 at 50% -> 1 (move 13)\n", "model", "rollback", "m")
	for _, test := range []struct {
		want string
		args []string
	}{
		{`the share is "10", expected one between 0 and 1, such as 10% or 0.1`, []string{"canary", "m", "2", "--share", "10"}},
		{`the share is "some", expected one between 0 and 1, such as 10% or 0.1`, []string{"canary", "m", "2", "--share", "some"}},
		{`the share is "NaN%", expected one between 0 and 1, such as 10% or 0.1`, []string{"canary", "m", "2", "--share", "NaN%"}},
		{"at least one of the flags in the group [share end] is required", []string{"canary", "m", "2"}},
		{`"two" is not the number of a version`, []string{"canary", "m", "two", "--share", "10%"}},
		{`model "m" has no version 9`, []string{"canary", "m", "9", "--share", "10%"}},
		{"which version? expected: pilotlight model shadow m VERSION", []string{"shadow", "m"}},
		{"--end takes no version", []string{"shadow", "m", "2", "--end"}},
		{`version is "two", expected a number`, []string{"shadow", "m", "two"}},
		{`version is "two", expected a number`, []string{"promote", "m", "two"}},
		{`alias "champion" of model "m" has no canary to promote`, []string{"promote", "m"}},
		{`alias "other" of model "m" has no canary to promote`, []string{"promote", "m", "--alias", "other"}},
	} {
		c.fails(test.want, append([]string{"model"}, test.args...)...)
	}
}
