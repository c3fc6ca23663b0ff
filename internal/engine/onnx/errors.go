package onnx

import (
	"regexp"
	"strings"
	"unicode"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
)

// openError tells why the library refuses a model.
func openError(err error) error {
	text := err.Error()
	if strings.Contains(text, "External data") || strings.Contains(text, " TensorProto (") {
		return fault.Wrap(fault.Invalid, err, "the model keeps weights in other files; save it as one file with all its weights inside")
	}
	if m := futureOpset.FindStringSubmatch(text); m != nil {
		return fault.Wrap(fault.Invalid, err, "the model is written for opset %s of %s, ONNX Runtime knows them up to %s", m[1], m[2], m[3])
	}
	return fault.Wrap(fault.Invalid, err, "ONNX Runtime cannot open the model: %s", sentence(text))
}

// runError tells why a run failed. What an operation or the check of the inputs
// has to say is about the inputs; anything else is a defect.
func runError(err error) error {
	text := err.Error()
	for _, mark := range []string{"returned while running", "Got invalid dimensions", "Invalid rank for input", "Unexpected input data type"} {
		if strings.Contains(text, mark) {
			return fault.Wrap(fault.Invalid, err, "the model cannot be run on these inputs: %s", sentence(text))
		}
	}
	return fault.Wrap(fault.Internal, err, "ONNX Runtime cannot run the model: %s", sentence(text))
}

var (
	futureOpset = regexp.MustCompile(`Opset (\d+) is under development.*support for domain (\S+) is till opset (\d+)`)

	// noise is what the library says to its own developers, what the binding puts
	// before it, and advice that comes with everything.
	noise = regexp.MustCompile(`Error running network: |Error creating C session: |\[ONNXRuntimeError\] : \d+ : \w+ : |` +
		`Exception during initialization: |Non-zero status code |This is an invalid model\. |Please fix either the inputs/outputs or the model\.`)
	// source is a line of the library's source with the function, in one word; the
	// other form, with the function's whole signature, is for cutSignature.
	source    = regexp.MustCompile(`(\S*/)?\w+\.(?:cc|cpp|h|hpp|inc):\d+ `)
	shortFunc = regexp.MustCompile(`^(\w+|operator\(\)) `)
	condition = regexp.MustCompile(`^[^.]* was false\. ?`)
	running   = regexp.MustCompile(`returned while running (\w+) node\. Name:'([^']*)' Status Message: `)
	inNode    = regexp.MustCompile(`In Node, \("([^"]*)", (\w+), .* , Error `)
)

// sentence cleans what the library says of what only its developers understand:
// error codes, paths and functions of its source, the conditions it checks.
func sentence(text string) string {
	text = noise.ReplaceAllString(text, "")
	for {
		at := source.FindStringSubmatchIndex(text)
		if at == nil {
			break
		}
		rest := text[at[1]:]
		if at[2] >= 0 { // with a folder
			rest = cutSignature(rest)
		} else {
			rest = shortFunc.ReplaceAllString(rest, "")
		}
		text = text[:at[0]] + condition.ReplaceAllString(rest, "")
	}
	text = running.ReplaceAllString(text, `$1 "$2": `)
	text = inNode.ReplaceAllString(text, `$2 "$1": `)
	text = strings.ReplaceAll(text, ` "": `, `: `) // nodes without a name
	text = strings.ReplaceAll(text, "std::bad_alloc", "it needs more memory than there is")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimRight(strings.Join(strings.Fields(text), " "), ". ")
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// cutSignature cuts a C++ function's signature off the beginning of s: all up to
// the space behind its parameters, and the qualifiers that follow.
func cutSignature(s string) string {
	depth := 0
	for i, r := range s {
		switch r {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 && strings.HasPrefix(s[i+1:], " ") {
				return qualifiers.ReplaceAllString(s[i+2:], "")
			}
		}
	}
	return s
}

var qualifiers = regexp.MustCompile(`^(?:const |\[with [^\]]*\] )*`)
