// Package s3store keeps objects in a bucket of S3, or of anything that speaks
// its protocol with conditional writes (If-Match, If-None-Match).
//
// An object's version is its ETag, so equal content may have an equal version.
// Every write carries a random mark in the object's metadata: when a write was
// repeated after a broken connection and is refused, the mark tells whether the
// refusal was brought about by its own first attempt. It also carries a CRC-32
// of the content, without which some servers keep what had arrived when the
// connection broke. Nothing else is hashed, there or back: TLS guards the
// transport, and whoever needs more keeps a digest.
//
// Opening neither connects nor looks for credentials.
package s3store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/store"
)

var _ store.Blob = (*Blob)(nil)

// Blob is a store.Blob in a bucket.
type Blob struct {
	client *s3.Client
	http   *http.Client
	bucket *string
	root   string // what all keys in the bucket begin with: "" or with a slash at its end
}

// markName is the metadata under which each write leaves its mark.
const markName = "pilotlight-write"

// OpenBlob prepares a client for s3://bucket/prefix. The query may hold
// endpoint= (http://host:port of a server other than AWS's), region=, and
// path_style= (true unless the endpoint is AWS's). Everything else, and these
// where the URL does not say, comes from the environment: AWS_*.
func OpenBlob(ctx context.Context, u *url.URL) (store.Blob, error) {
	endpoint, region, pathStyle, err := settings(u)
	if err != nil {
		return nil, err
	}
	root := strings.Trim(u.Path, "/")
	if root != "" {
		if err := store.CheckKey(root); err != nil {
			return nil, fault.Wrap(fault.Invalid, err, "store URL %q: its path is no prefix for keys", u.Redacted())
		}
		root += "/"
	}

	builder := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) {
		d.Timeout = 3 * time.Second
	}).WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = 64 // a model comes in many ranges at once
	})
	cfg, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(builder),
		config.WithRegion(region), config.WithDefaultRegion("us-east-1"))
	if err != nil {
		return nil, fault.Wrap(fault.Invalid, err, "the environment's settings for S3 (AWS_*) are not valid")
	}
	built, ok := cfg.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return nil, fault.New(fault.Internal, "the SDK of S3 has another HTTP client than it was given")
	}
	// The SDK's own client would hide the transport, and with it the connections
	// to close. It would also follow some redirects, to wherever they point.
	transport := &http.Client{
		Transport:     built.GetTransport(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	cfg.HTTPClient = transport
	client := s3.NewFromConfig(cfg, func(o *s3.Options) {
		if endpoint != "" {
			o.BaseEndpoint = &endpoint
		}
		o.UsePathStyle = o.BaseEndpoint != nil
		if pathStyle != nil {
			o.UsePathStyle = *pathStyle
		}
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
		o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
	})
	return &Blob{client: client, http: transport, bucket: &u.Host, root: root}, nil
}

// settings reads what the URL says beside bucket and prefix; nil is nothing.
func settings(u *url.URL) (endpoint, region string, pathStyle *bool, err error) {
	if u.Host == "" {
		return "", "", nil, fault.New(fault.Invalid, "store URL %q: want s3://bucket/prefix", u.Redacted())
	}
	for name, values := range u.Query() {
		switch value := values[0]; name {
		case "endpoint":
			endpoint = value
		case "region":
			region = value
		case "path_style":
			b, err := strconv.ParseBool(value)
			if err != nil {
				return "", "", nil, fault.Wrap(fault.Invalid, err, "store URL %q: path_style must be true or false", u.Redacted())
			}
			pathStyle = &b
		default:
			return "", "", nil, fault.New(fault.Invalid, "store URL %q: %s is none of endpoint, region, path_style", u.Redacted(), name)
		}
	}
	return endpoint, region, pathStyle, nil
}

// Get opens a range of an object.
func (b *Blob) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, store.Object, error) {
	if err := check(ctx, key); err != nil {
		return nil, store.Object{}, err
	}
	if offset < 0 {
		return nil, store.Object{}, fault.New(fault.Invalid, "key %q: an offset is not negative", key)
	}
	if length == 0 {
		return b.getNothing(ctx, key)
	}
	in := &s3.GetObjectInput{Bucket: b.bucket, Key: b.name(key)}
	switch {
	case length > 0 && length <= math.MaxInt64-offset:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := b.client.GetObject(ctx, in)
	if code(err) == "InvalidRange" { // nothing there; also for any range of an empty object
		return b.getNothing(ctx, key)
	}
	if err != nil {
		return nil, store.Object{}, b.readFault(ctx, key, err)
	}
	o := store.Object{Key: key, Size: aws.ToInt64(out.ContentLength), Version: version(out.ETag), Modified: aws.ToTime(out.LastModified)}
	if _, total, ok := strings.Cut(aws.ToString(out.ContentRange), "/"); ok {
		if o.Size, err = strconv.ParseInt(total, 10, 64); err != nil {
			_ = out.Body.Close() // there is a better error to tell of
			return nil, store.Object{}, fault.Wrap(fault.Unavailable, err, "the object store gives no size for %q", key)
		}
	}
	return body{ctx, out.Body}, o, nil
}

// getNothing gives an object's description and none of its bytes.
func (b *Blob) getNothing(ctx context.Context, key string) (io.ReadCloser, store.Object, error) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket, Key: b.name(key)})
	if err != nil {
		return nil, store.Object{}, b.readFault(ctx, key, err)
	}
	return http.NoBody, store.Object{
		Key: key, Size: aws.ToInt64(out.ContentLength), Version: version(out.ETag), Modified: aws.ToTime(out.LastModified),
	}, nil
}

func (b *Blob) readFault(ctx context.Context, key string, err error) error {
	if c := code(err); c == "NoSuchKey" || c == "NotFound" {
		return fault.Wrap(fault.NotFound, err, "key %q does not exist", key)
	}
	return s3Fault(ctx, err)
}

// body gives a kind to the errors of a download.
type body struct {
	ctx context.Context
	io.ReadCloser
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = s3Fault(b.ctx, err)
	}
	return n, err
}

// Put stores an object: a large one in parts that travel side by side.
func (b *Blob) Put(ctx context.Context, key string, body io.ReadSeeker, size int64, c store.Condition) (string, error) {
	if err := check(ctx, key); err != nil {
		return "", err
	}
	end, err := body.Seek(0, io.SeekEnd)
	if err == nil && end == size {
		_, err = body.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", fmt.Errorf("read the body of %q: %w", key, err)
	}
	if end != size {
		return "", fault.New(fault.Invalid, "key %q: the body has %d bytes, not the %d that were announced", key, end, size)
	}

	src := &source{body: body}
	w := write{key: b.name(key), mark: map[string]string{markName: rand.Text()}}
	if c.Absent() {
		w.ifNone = aws.String("*")
	} else if !c.Always() {
		w.ifMatch = aws.String(`"` + c.Version() + `"`)
	}
	var etag *string
	if size <= onePut {
		etag, err = b.putOne(ctx, w, src, size)
	} else {
		etag, err = b.putParts(ctx, w, src, size)
	}
	if err == nil {
		return version(etag), nil
	}
	if err := src.failed(); err != nil && ctx.Err() == nil {
		return "", fmt.Errorf("read the body of %q: %w", key, err)
	}
	if refused(err) {
		if v, ok := b.written(ctx, w); ok {
			return v, nil
		}
		if code(err) != noSuchUpload {
			return "", fault.Wrap(fault.Conflict, err, "key %q is not in the state that was asked for", key)
		}
	}
	return "", s3Fault(ctx, err)
}

// write is what all requests of one Put have in common.
type write struct {
	key             *string
	mark            map[string]string
	ifNone, ifMatch *string
}

// putOne stores an object by one request, which the SDK may repeat.
func (b *Blob) putOne(ctx context.Context, w write, src *source, size int64) (etag *string, err error) {
	sum, err := src.crc32(0, size)
	if err != nil {
		return nil, err
	}
	out, err := b.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: b.bucket, Key: w.key, Body: src.section(0, size), ContentLength: &size, ChecksumCRC32: sum, Metadata: w.mark,
		IfNoneMatch: w.ifNone, IfMatch: w.ifMatch,
	}, func(o *s3.Options) {
		// S3's word for "somebody else is just writing; it is open who wins".
		o.Retryer = retry.AddWithErrorCodes(o.Retryer, "ConditionalRequestConflict")
	})
	if err != nil {
		return nil, err
	}
	return out.ETag, nil
}

// written tells whether the object is the one of w, and in which version.
func (b *Blob) written(ctx context.Context, w write) (string, bool) {
	out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: b.bucket, Key: w.key})
	if err != nil || out.Metadata[markName] != w.mark[markName] {
		return "", false
	}
	return version(out.ETag), true
}

// List visits the objects page by page. What others put below the prefix under
// names that are no keys is left out.
func (b *Blob) List(ctx context.Context, prefix, after string) iter.Seq2[store.Object, error] {
	return func(yield func(store.Object, error) bool) {
		if store.CheckKey(prefix) != nil && store.CheckKey(prefix+"x") != nil {
			return // no key begins like that, and not every server takes any bytes
		}
		in := &s3.ListObjectsV2Input{Bucket: b.bucket, Prefix: b.name(prefix)}
		if after != "" {
			in.StartAfter = b.name(after)
		}
		for pages := s3.NewListObjectsV2Paginator(b.client, in); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(store.Object{}, s3Fault(ctx, err))
				return
			}
			for _, o := range page.Contents {
				key := strings.TrimPrefix(aws.ToString(o.Key), b.root)
				if store.CheckKey(key) != nil {
					continue
				}
				if !yield(store.Object{Key: key, Size: aws.ToInt64(o.Size), Version: version(o.ETag), Modified: aws.ToTime(o.LastModified)}, nil) {
					return
				}
			}
		}
	}
}

// Delete removes an object.
func (b *Blob) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: b.bucket, Key: b.name(key)})
	if err != nil && code(err) != "NoSuchKey" {
		return s3Fault(ctx, err)
	}
	return nil
}

// Close closes the connections.
func (b *Blob) Close() error {
	b.http.CloseIdleConnections()
	return nil
}

func (b *Blob) name(key string) *string { return aws.String(b.root + key) }

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return store.CheckKey(key)
}

// version is an ETag without its quotes, which not every server gives every time.
func version(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }

const noSuchUpload = "NoSuchUpload"

// code is S3's own name for an error, or "".
func code(err error) string {
	if e := smithy.APIError(nil); errors.As(err, &e) {
		return e.ErrorCode()
	}
	return ""
}

// refused tells whether err is the answer to a write whose condition does not
// hold, or which its own first attempt stands in the way of.
func refused(err error) bool {
	if slices.Contains([]string{"PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", noSuchUpload}, code(err)) {
		return true
	}
	e := (*awshttp.ResponseError)(nil)
	return errors.As(err, &e) && (e.HTTPStatusCode() == http.StatusPreconditionFailed || e.HTTPStatusCode() == http.StatusConflict)
}

// s3Fault gives a kind to what the client says. Whether the server can't be
// reached, or answers that it can't serve now, is the same to callers.
func s3Fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c := code(err); c != "" { // such as AccessDenied or NoSuchBucket: what to do about it is in the name
		return fault.Wrap(fault.Unavailable, err, "the object store refuses: %s", c)
	}
	return fault.Wrap(fault.Unavailable, err, "the object store cannot be reached")
}
