package browser

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"slices"
)

const pictureMost = 150 << 10

// small writes a picture anew with few colours: pages have few, and a repository keeps pictures for ever.
func small(picture []byte) ([]byte, error) {
	from, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	for _, bits := range []uint{0, 2, 3, 4} { // that are left off each colour
		to := paletted(from, bits)
		var out bytes.Buffer
		encoder := png.Encoder{CompressionLevel: png.BestCompression}
		if err := encoder.Encode(&out, to); err != nil {
			return nil, err
		}
		if picture = out.Bytes(); len(picture) <= pictureMost {
			break
		}
	}
	return picture, nil
}

// paletted keeps the 256 colours that are most frequent, and takes the nearest of them for the others.
func paletted(from image.Image, bits uint) image.Image {
	rough := func(c color.Color) color.RGBA {
		r, g, b, _ := c.RGBA()
		cut := func(v uint32) uint8 {
			v8 := uint8(v >> 8) //nolint:gosec // 16 bits
			if v8 == 255 {
				return v8
			}
			return v8 >> bits << bits
		}
		return color.RGBA{cut(r), cut(g), cut(b), 255}
	}
	counts := map[color.RGBA]int{}
	box := from.Bounds()
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			counts[rough(from.At(x, y))]++
		}
	}
	all := make([]color.RGBA, 0, len(counts))
	for c := range counts {
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b color.RGBA) int { return counts[b] - counts[a] })
	var palette color.Palette
	for _, c := range all[:min(len(all), 256)] {
		palette = append(palette, c)
	}
	to := image.NewPaletted(box, palette)
	near := map[color.RGBA]uint8{}
	for y := box.Min.Y; y < box.Max.Y; y++ {
		for x := box.Min.X; x < box.Max.X; x++ {
			c := rough(from.At(x, y))
			i, known := near[c]
			if !known {
				i = uint8(palette.Index(c)) //nolint:gosec // of 256
				near[c] = i
			}
			to.SetColorIndex(x, y, i)
		}
	}
	return to
}
