package objectvoter

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // what S3 wants of a body (Content-MD5), against damage on the way
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/holdfast-dr/holdfast/pkg/domain"
)

// Config says where a bucket is. Only Endpoint, Bucket and Credentials must be set.
type Config struct {
	Endpoint    string // https://host[:port], or http:// for a store on the same machine
	Bucket      string
	Prefix      string // of every key; empty: none
	Region      string // empty: us-east-1, which stores without regions take
	Credentials string // file of an access key, in the format of AWS' shared credentials, profile [default]
	CA          string // PEM file of the authorities that the store's certificate may come from; empty: the system's
}

// Bucket is one site's client of a bucket. Its methods may be called from any goroutine and take as long as its time-out at most.
type Bucket struct {
	ctx     context.Context //nolint:containedctx // of the service: requests end with it
	cfg     Config
	core    minio.Core
	creds   *credentials.Credentials
	timeout time.Duration

	mu      sync.Mutex
	records map[string]*Object

	enrolling sync.Mutex
	probed    bool  // a probe came to an end
	refusal   error // of the probe; nil: the store may hold votes
}

const (
	defaultRegion = "us-east-1"
	profile       = "default"
	maxBytes      = 1 << 20 // of an object; a record of a hundred voters has some thousand bytes
)

// New makes a client. Nothing is sent yet. Errors wrap domain.ErrInvalid and name the field or the file that cannot be used.
func New(ctx context.Context, cfg Config, timeout time.Duration) (*Bucket, error) {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("object voter %s/%s: %w: %w", cfg.Endpoint, cfg.Bucket, domain.ErrInvalid, fmt.Errorf(format, a...))
	}
	u, err := url.Parse(cfg.Endpoint)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.Path != "" {
		return nil, bad("the endpoint is no https://host[:port]")
	}
	if u.Scheme == "http" && !local(u.Hostname()) {
		return nil, bad("http is for a store on the same machine only: write https://")
	}
	roots, err := pool(cfg.CA)
	if err != nil {
		return nil, bad("%w", err)
	}
	creds, err := keys(cfg.Credentials)
	if err != nil {
		return nil, bad("%w", err)
	}
	region := cfg.Region
	if region == "" {
		region = defaultRegion
	}
	client, err := minio.New(u.Host, &minio.Options{Creds: creds, Secure: u.Scheme == "https", Region: region, MaxRetries: 1, Transport: transport(roots, timeout)})
	if err != nil {
		return nil, bad("%w", err)
	}
	return &Bucket{ctx: ctx, cfg: cfg, core: minio.Core{Client: client}, creds: creds, timeout: timeout, records: map[string]*Object{}}, nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func pool(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the store's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("read the store's CA %s: it holds no certificate in PEM", file)
	}
	return roots, nil
}

// keys reads the access key, which nobody else may read, once to tell at the start what is wrong with it.
func keys(file string) (*credentials.Credentials, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read the access key: %w", err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("access key %s: others than its owner may use it (mode %04o): run chmod 600 %s", file, m, file)
	}
	c := credentials.NewFileAWSCredentials(file, profile)
	v, err := c.GetWithContext(nil)
	if err != nil || v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, fmt.Errorf("access key %s: want aws_access_key_id and aws_secret_access_key under [%s]: %w", file, profile, errors.Join(err))
	}
	return c, nil
}

// transport keeps a few connections to the store and gives up on its own when it falls silent.
func transport(roots *x509.CertPool, timeout time.Duration) *http.Transport {
	return &http.Transport{
		DialContext: (&net.Dialer{Timeout: timeout}).DialContext, TLSHandshakeTimeout: timeout, ResponseHeaderTimeout: timeout,
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		DisableCompression: true, Proxy: http.ProxyFromEnvironment,
	}
}

// Object is the client's of one group's record, the same one for each call with the same names.
func (b *Bucket) Object(cluster string, group domain.GroupID) (*Object, error) {
	if !domain.ValidToken(cluster) || !domain.ValidToken(string(group)) {
		return nil, fmt.Errorf("open object voter for cluster %q group %q: not a name: %w", cluster, group, domain.ErrInvalid)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	key := path.Join(b.cfg.Prefix, cluster, string(group))
	o := b.records[key]
	if o == nil {
		o = &Object{b: b, key: key}
		b.records[key] = o
	}
	return o, nil
}

// stored is an object as it was read: none has no tag.
type stored struct {
	data []byte
	tag  string
}

// get reads an object. That there is none is no error.
func (b *Bucket) get(key string) (stored, error) {
	ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
	defer cancel()
	body, info, _, err := b.core.GetObject(ctx, b.cfg.Bucket, key, minio.GetObjectOptions{})
	if err != nil {
		if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
			return stored{}, nil
		}
		return stored{}, b.failed("read", key, err)
	}
	defer func() { _ = body.Close() }()
	data, err := io.ReadAll(io.LimitReader(body, maxBytes+1))
	switch {
	case err != nil:
		return stored{}, b.failed("read", key, err)
	case len(data) > maxBytes || info.ETag == "":
		return stored{}, fmt.Errorf("read object voter %s: %w: %w: %d bytes, ETag %q", key, domain.ErrRefused, ErrCorrupt, len(data), info.ETag)
	}
	return stored{data, info.ETag}, nil
}

var (
	// errTaken is the store's word that the condition did not hold: nothing was written.
	errTaken = errors.New("another version was there first")
	// errBusy is its word that another write was under way: AWS' 409 ConditionalRequestConflict.
	errBusy = errors.New("another write was under way")
)

// put writes an object if it is still the one with that tag; "" means that there is none. Any error but errTaken leaves open
// whether it was written.
func (b *Bucket) put(key, tag string, data []byte) error {
	ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
	defer cancel()
	// The whole body is signed by its sum, which is given below: not in chunks.
	opts := minio.PutObjectOptions{ContentType: "application/json", DisableContentSha256: true}
	if tag == "" {
		opts.SetMatchETagExcept("*")
	} else {
		opts.SetMatchETag(tag)
	}
	sha, sum := sha256.Sum256(data), md5.Sum(data) //nolint:gosec // see the import
	_, err := b.core.PutObject(ctx, b.cfg.Bucket, key, bytes.NewReader(data), int64(len(data)), base64.StdEncoding.EncodeToString(sum[:]), hex.EncodeToString(sha[:]), opts)
	if err == nil {
		return nil
	}
	// 404 is the answer to If-Match where the object is gone.
	switch resp := minio.ToErrorResponse(err); {
	case resp.StatusCode == http.StatusPreconditionFailed, tag != "" && resp.Code == minio.NoSuchKey:
		return errTaken
	case resp.StatusCode == http.StatusConflict:
		err = errors.Join(errBusy, err)
	}
	return b.failed("write", key, err)
}

// remove deletes an object of a probe.
func (b *Bucket) remove(key string) error {
	ctx, cancel := context.WithTimeout(b.ctx, b.timeout)
	defer cancel()
	if err := b.core.RemoveObject(ctx, b.cfg.Bucket, key, minio.RemoveObjectOptions{}); err != nil {
		return b.failed("remove", key, err)
	}
	return nil
}

// failed names a failure. A store that refuses the key may have been given another one: the file is read again for the next request.
func (b *Bucket) failed(verb, key string, err error) error {
	if code := minio.ToErrorResponse(err).StatusCode; code == http.StatusForbidden || code == http.StatusUnauthorized {
		b.creds.Expire()
	}
	return fmt.Errorf("%s object voter %s/%s/%s: %w: %w", verb, b.cfg.Endpoint, b.cfg.Bucket, key, domain.ErrUnavailable, err)
}
