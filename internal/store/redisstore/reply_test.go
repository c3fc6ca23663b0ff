package redisstore

import "testing"

// No answer, however broken, makes reading it crash or run past its end.
func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"*2\r\n$1\r\na\r\n$-1\r\n", "*2\r\n$0\r\n\r\n_\r\n", "*2\r\n$9\r\na\r\n", "*2\r\n$1\r\nab\r\n", "*1\r\n$1\r\na\r\n",
		"-LOADING later\r\n", "*2\r\n-ERR no\r\n:1\r\n", "*2\r\n$-2\r\n", "*2\r\n$9223372036854775807\r\n", "\r\n", "*2", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := reply(data)
		if r.array(2) != nil {
			return
		}
		for range 2 {
			value, err := r.bulk()
			if err != nil {
				return
			}
			if cap(value) != len(value) {
				t.Errorf("a value of %d bytes has room for %d: an append would reach the next one", len(value), cap(value))
			}
		}
	})
}
