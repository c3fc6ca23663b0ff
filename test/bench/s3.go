package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/store/s3store"
)

// s3 is a local S3 server, versitygw on a folder, with one bucket.
type s3 struct {
	*process
	access, secret string
}

// needS3 starts the S3 server unless it runs.
func (b *bench) needS3(ctx context.Context) error {
	if b.s3 != nil {
		return nil
	}
	program := filepath.Join(b.root, ".tools", "versitygw")
	if _, err := os.Stat(program); err != nil {
		return fmt.Errorf("the S3 server is missing: make s3: %w", err)
	}
	data, side := filepath.Join(b.dir, "s3", "data"), filepath.Join(b.dir, "s3", "side")
	for _, dir := range []string{filepath.Join(data, "bucket"), side} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	s := &s3{access: rand.Text(), secret: rand.Text()}
	s.process, err = b.startAt(ctx, port, launch{
		args: []string{
			program, "--port", "127.0.0.1:" + port, "--access", s.access, "--secret", s.secret, "--health", "/health",
			// Attributes beside the files suit every file system.
			"--quiet", "--keep-alive", "--disable-acl", "posix", "--sidecar", side, data,
		},
		core: anyCore, ready: "/health",
	})
	if err != nil {
		return err
	}
	b.s3 = s
	return nil
}

// environ names the part of the bucket below a prefix to a server.
func (s *s3) environ(prefix string) []string {
	query := url.Values{"endpoint": {"http://" + s.addr}, "region": {"us-east-1"}}
	return []string{"BLOB_URL=s3://bucket/" + prefix + "?" + query.Encode(), "AWS_ACCESS_KEY_ID=" + s.access, "AWS_SECRET_ACCESS_KEY=" + s.secret}
}

// open opens that part in this process, whose environment gets the credentials.
func (s *s3) open(ctx context.Context, prefix string) (store.Blob, error) {
	var location *url.URL
	for _, v := range s.environ(prefix) {
		name, value, _ := strings.Cut(v, "=")
		if name == "BLOB_URL" {
			var err error
			if location, err = url.Parse(value); err != nil {
				return nil, err
			}
			continue
		}
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	return s3store.OpenBlob(ctx, location)
}
