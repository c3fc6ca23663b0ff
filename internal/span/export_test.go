package span

import "github.com/klauspost/compress/zstd"

// Pack compresses lines as objects have them.
func Pack(lines []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	defer w.Close()
	return w.EncodeAll(lines, nil)
}
