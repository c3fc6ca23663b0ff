package s3store

import (
	"cmp"
	"context"
	"encoding/base64"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	onePut    = 64 << 20 // the largest object that goes in one piece
	partSize  = 16 << 20 // at least; S3 takes 10,000 parts
	maxParts  = 10_000
	uploaders = 4
)

// putParts stores an object by a multipart upload, which is aborted when
// anything fails: unfinished ones are invisible, but cost money.
//
// The SDK's transfer manager would do, but it copies every part, and it writes
// a line to the global log whenever a condition does not hold.
func (b *Blob) putParts(ctx context.Context, w write, src *source, size int64) (etag *string, err error) {
	upload, err := b.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: b.bucket, Key: w.key, Metadata: w.mark, ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			// What is left when this fails too, a lifecycle rule of the bucket removes.
			_, _ = b.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: b.bucket, Key: w.key, UploadId: upload.UploadId})
		}
	}()

	each := max(partSize, (size+maxParts-1)/maxParts)
	parts := make([]types.CompletedPart, (size+each-1)/each)
	var next atomic.Int64
	var group sync.WaitGroup
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	for range uploaders {
		group.Go(func() {
			for sending.Err() == nil {
				i := next.Add(1) - 1
				if i >= int64(len(parts)) {
					return
				}
				offset := i * each
				number, length := aws.Int32(int32(i+1)), min(each, size-offset)
				sum, err := src.crc32(offset, length)
				if err != nil {
					stop(err)
					return
				}
				out, err := b.client.UploadPart(sending, &s3.UploadPartInput{
					Bucket: b.bucket, Key: w.key, UploadId: upload.UploadId, PartNumber: number,
					Body: src.section(offset, length), ContentLength: &length, ChecksumCRC32: sum,
				})
				if err != nil {
					stop(err)
					return
				}
				parts[i] = types.CompletedPart{ETag: out.ETag, PartNumber: number, ChecksumCRC32: sum}
			}
		})
	}
	group.Wait()
	if err := context.Cause(sending); err != nil {
		return nil, err
	}
	out, err := b.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: b.bucket, Key: w.key, UploadId: upload.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
		IfNoneMatch: w.ifNone, IfMatch: w.ifMatch,
	})
	if err != nil {
		return nil, err
	}
	return out.ETag, nil
}

// source lets several requests read from one body, each its own section, and
// keeps the body's errors apart from those of the network.
type source struct {
	mu   sync.Mutex
	body io.ReadSeeker
	err  error
}

func (s *source) section(offset, length int64) *io.SectionReader {
	return io.NewSectionReader(s, offset, length)
}

// crc32 gives the sum of a section as S3 writes it.
func (s *source) crc32(offset, length int64) (*string, error) {
	sum := crc32.NewIEEE()
	if _, err := io.Copy(sum, s.section(offset, length)); err != nil {
		return nil, err
	}
	return aws.String(base64.StdEncoding.EncodeToString(sum.Sum(nil))), nil
}

// ReadAt reads a piece of the body.
func (s *source) ReadAt(p []byte, offset int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.body.Seek(offset, io.SeekStart); err != nil {
		s.err = cmp.Or(s.err, err)
		return 0, err
	}
	n, err := io.ReadFull(s.body, p)
	if err != nil {
		s.err = cmp.Or(s.err, err)
	}
	return n, err
}

// failed gives the first error that the body itself had.
func (s *source) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
