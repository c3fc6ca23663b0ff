// Package epoch notes when the program began to run. It imports next to nothing,
// so that it is initialised among the first packages: what the kernel tells, when
// the process was made, is too early in a container, whose runtime makes the process
// long before it turns into the program.
package epoch

import "time"

// Begin is the time of the program's first lines, some milliseconds after its exec.
var Begin = time.Now()
