package feedback

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	"github.com/pilotlight-ml/pilotlight/internal/drift"
	"github.com/pilotlight-ml/pilotlight/internal/fault"
	"github.com/pilotlight-ml/pilotlight/internal/ledger"
	"github.com/pilotlight-ml/pilotlight/internal/model"
	"github.com/pilotlight-ml/pilotlight/internal/segment"
	"github.com/pilotlight-ml/pilotlight/internal/store"
	"github.com/pilotlight-ml/pilotlight/internal/telemetry"
)

// Where the journal keeps what it needs.
const (
	HeadKey       = "feedback/head"
	CommitPrefix  = "feedback/commits/"
	LedgerPrefix  = "feedback/ledger/"
	WaitingPrefix = "feedback/waiting/"
	// WindowPrefix is where windows lie, below the generation that they are of.
	WindowPrefix = "feedback/windows/"
	// LogPrefix is where outcomes lie once they were joined, or wait for it: in objects like those under InboxPrefix.
	LogPrefix = "outcomes/log/"
	// DamagedPrefix is where objects of the inbox are kept that can't be read.
	DamagedPrefix = "outcomes/damaged/"
)

// JournalConfig says for how long predictions and outcomes find each other.
type JournalConfig struct {
	Join time.Duration `env:"FEEDBACK_JOIN" default:"720h" help:"For how long after a prediction was answered its outcome still counts."`
	Wait time.Duration `env:"FEEDBACK_WAIT" default:"1h" help:"How long an outcome waits for the log of its prediction before it counts as unknown. Outcomes that name entities always wait that long, so that the last prediction is known."`
}

// Validate refuses what can't work.
func (c *JournalConfig) Validate() error {
	switch {
	case c.Join <= 0:
		return fault.New(fault.Invalid, "FEEDBACK_JOIN must be positive")
	case c.Wait <= 0:
		return fault.New(fault.Invalid, "FEEDBACK_WAIT must be positive")
	}
	return nil
}

// Journal takes what the payload log and the inbox of outcomes have into windows, and what came true to what was predicted. It goes
// in commits: each takes some segments and objects, finds what they have to do with what was there before, and says what that
// adds to which window. The head says which commit is the newest; it is replaced if nobody else was quicker, and the commit is
// finished by whoever comes next: windows know the last commit that was added to them. So everything counts once, and any number of
// instances may try, and end at any moment. Where there is no head everything counts anew. It is safe for concurrent use.
type Journal struct {
	blob    store.Blob
	catalog *model.Catalog
	conf    JournalConfig
	now     func() time.Time
	turn    chan struct{} // holds one while somebody here works
	joins   metric.Int64Counter
	damaged metric.Int64Counter
	done    int64 // the last commit that is known to be finished; of who has the turn
}

// NewJournal makes a journal of a bucket.
func NewJournal(c *JournalConfig, blob store.Blob, catalog *model.Catalog, tel *telemetry.Telemetry) (*Journal, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	j := &Journal{blob: blob, catalog: catalog, conf: *c, now: time.Now, turn: make(chan struct{}, 1)}
	return j, j.measure(tel)
}

// head names the newest commit.
type head struct {
	Number int64 `json:"number"` // of the commit, greater than that of any before it
	// Generation is that of the windows: the number of the first commit. Those of another one are not looked at.
	Generation int64     `json:"generation"`
	At         time.Time `json:"at"`
	Commit     string    `json:"commit"` // the object that says what it is; "": there is none yet
}

// commit is all that is known by it.
type commit struct {
	// Segments that were taken: all before Since, in microseconds since 1970, and of the later ones these, by id.
	Since    int64    `json:"since"`
	Segments []string `json:"segments"`
	// Runs of the ledger.
	Runs []ledger.Run `json:"runs"`
	// Waits are runs of outcomes whose predictions were not known when they came, until they have waited long enough; Waiting is how many of
	// them still do, by the models that they name.
	Waits   []ledger.Run   `json:"waits,omitempty"`
	Waiting map[string]int `json:"waiting,omitempty"`
	// Slices has the values by which answers are told apart, by version and column.
	Slices map[string]map[string][]string `json:"slices,omitempty"`

	// What is still to be done, as often as somebody likes.
	Traffic map[string]*window         `json:"traffic,omitempty"` // to be added to windows, by their places in the generation
	Hours   map[string]map[int64]*hour `json:"hours,omitempty"`   // to be added to hours, by model and start
	Delete  []string                   `json:"delete,omitempty"`  // objects that are not needed any more
}

// Progress tells what was taken.
type Progress struct {
	Commits     int
	Segments    int
	Predictions int // rows
	Outcomes    int
	Joined      int
	Unknown     int // outcomes whose predictions did not come
	Waiting     int // outcomes, after all
	Damaged     []string
}

func (p *Progress) add(o *Progress) {
	p.Commits += o.Commits
	p.Segments += o.Segments
	p.Predictions += o.Predictions
	p.Outcomes += o.Outcomes
	p.Joined += o.Joined
	p.Unknown += o.Unknown
	p.Waiting = o.Waiting
	p.Damaged = append(p.Damaged, o.Damaged...)
}

// CatchUp takes all that there is. What it has done by the time that it fails stays done.
func (j *Journal) CatchUp(ctx context.Context) (Progress, error) {
	var all Progress
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return all, ctx.Err()
	}
	for attempt := 0; ; {
		did, err := j.step(ctx)
		switch {
		case err == nil && did.Commits == 0:
			all.Waiting = did.Waiting
			return all, nil
		case err == nil:
			all.add(&did)
			j.count(ctx, &did)
			attempt = 0
			continue
		case !fault.Is(err, fault.Conflict):
			return all, err
		}
		if err := pause(ctx, attempt, err); err != nil {
			return all, err
		}
		attempt++
	}
}

// step makes the next commit, if there is anything to take. It is a Conflict if somebody else was quicker.
func (j *Journal) step(ctx context.Context) (did Progress, err error) {
	h, version, err := j.head(ctx)
	if err != nil {
		return did, err
	}
	defer func() { // who lost a race may miss objects
		if err == nil || fault.Is(err, fault.Conflict) {
			return
		}
		if _, now, failed := j.head(ctx); failed == nil && now != version {
			err = fault.Wrap(fault.Conflict, err, "somebody else has made a commit")
		}
	}()
	old, err := j.commit(ctx, h)
	if err != nil {
		return did, err
	}
	if version == "" {
		if err := j.begin(ctx); err != nil {
			return did, err
		}
	} else if err := j.finish(ctx, h, old); err != nil {
		return did, err
	}
	now := j.now()
	next := &head{Number: max(h.Number+1, now.UnixMicro()), Generation: h.Generation, At: now.UTC()}
	if next.Generation == 0 {
		next.Generation = next.Number
	}
	s := newStep(j, old, next.Number, now)
	made, err := s.prepare(ctx)
	if err != nil || made == nil {
		return s.did, err
	}
	if h.Commit != "" {
		made.Delete = append(made.Delete, h.Commit)
	}
	b, err := json.Marshal(made)
	if err != nil {
		return did, err
	}
	sum := sha256.Sum256(b)
	next.Commit = fmt.Sprintf("%s%d-%s", CommitPrefix, next.Number, hex.EncodeToString(sum[:8]))
	if err := segment.Keep(ctx, j.blob, next.Commit, b); err != nil {
		return did, err
	}
	if _, err := store.WriteJSON(ctx, j.blob, HeadKey, next, store.IfStill(version)); err != nil {
		return did, err
	}
	s.did.Commits = 1
	return s.did, nil
}

// head reads which commit is the newest; before the first one it has no version.
func (j *Journal) head(ctx context.Context) (*head, string, error) {
	h := &head{}
	version, err := store.ReadJSON(ctx, j.blob, HeadKey, objectMost, h)
	if fault.Is(err, fault.NotFound) {
		return h, "", nil
	}
	return h, version, anew(err)
}

// objectMost is how many bytes a head, a commit or a window may have: far more than any has.
const objectMost = 1 << 30

// anew says what to do about an object that is needed, and is damaged or not there.
func anew(err error) error {
	if fault.Is(err, fault.NotFound) || fault.Is(err, fault.Internal) {
		return fault.Wrap(fault.Internal, err, "%s; delete %q, and everything that is in the logs counts anew", fault.Message(err), HeadKey)
	}
	return err
}

// commit reads that of a head.
func (j *Journal) commit(ctx context.Context, h *head) (*commit, error) {
	c := &commit{}
	if h.Commit == "" {
		return c, nil
	}
	_, err := store.ReadJSON(ctx, j.blob, h.Commit, objectMost, c)
	return c, anew(err)
}

// begin brings outcomes that were taken back to the inbox. Those that somebody else takes meanwhile are the same ones again, and don't count.
func (j *Journal) begin(ctx context.Context) error {
	// They get names that no commit before has told anybody to delete.
	again := micros(j.now().UnixMicro())
	for o, err := range j.blob.List(ctx, LogPrefix, "") {
		if err != nil {
			return fmt.Errorf("list outcomes: %w", err)
		}
		b, _, err := store.ReadAll(ctx, j.blob, o.Key)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err == nil {
			created, hash, _ := strings.Cut(strings.TrimPrefix(o.Key, LogPrefix), "-")
			err = segment.Keep(ctx, j.blob, InboxPrefix+created+"-"+again+"-"+hash, b)
		}
		if err == nil {
			err = j.blob.Delete(ctx, o.Key)
		}
		if err != nil {
			return fmt.Errorf("bring %q back: %w", o.Key, err)
		}
	}
	return nil
}

// atOnce is how many windows are read or written at the same time.
const atOnce = 16

// finish does what a commit asks for.
func (j *Journal) finish(ctx context.Context, h *head, c *commit) error {
	if h.Number == j.done {
		return nil
	}
	profiles := map[versionID]*drift.Profile{}
	for name, hours := range c.Hours { // so that they are there for all that goes on at the same time
		for _, own := range hours {
			for version, t := range own.Versions {
				id := versionID{name, version}
				if _, known := profiles[id]; known || t.Drift == nil {
					continue
				}
				p, err := findReference(ctx, j.blob, name, version)
				if err != nil {
					return err
				}
				profiles[id] = p
			}
		}
	}
	reference := func(_ context.Context, model string, version int) (*drift.Profile, error) {
		return profiles[versionID{model, version}], nil
	}
	group, each := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for key, part := range c.Traffic {
		group.Go(fault.Guard(func() error {
			return applyTo(each, j, windowPrefix(h.Generation)+key, h.Number, func() *window { return &window{} }, func(w *window) error {
				w.merge(part)
				return nil
			})
		}))
	}
	for name, hours := range c.Hours {
		for start, part := range hours {
			group.Go(fault.Guard(func() error {
				return applyTo(each, j, hourPrefix(h.Generation, name)+micros(start), h.Number, func() *hour { return &hour{} }, func(at *hour) error {
					return at.merge(each, name, part, reference)
				})
			}))
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	group, each = errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for _, key := range c.Delete {
		group.Go(fault.Guard(func() error {
			if err := j.blob.Delete(each, key); err != nil {
				return fmt.Errorf("delete %q: %w", key, err)
			}
			return nil
		}))
	}
	if err := group.Wait(); err != nil {
		return err
	}
	j.done = h.Number
	return nil
}

// newest reads the newest commit. One that is gone once it is to be read is not the newest any more.
func (j *Journal) newest(ctx context.Context) (*head, *commit, error) {
	for {
		h, version, err := j.head(ctx)
		if err != nil {
			return nil, nil, err
		}
		c, err := j.commit(ctx, h)
		if err == nil {
			return h, c, nil
		}
		if _, now, failed := j.head(ctx); failed != nil || now == version {
			return nil, nil, err
		}
	}
}

// waiting is how many outcomes wait.
func (c *commit) waiting() (n int) {
	for _, of := range c.Waiting {
		n += of
	}
	return n
}

// sweep deletes what no commit needs: what somebody wrote who then lost a race, or was killed, and windows of generations before. Before is a
// time that no work under way is from.
func (j *Journal) sweep(ctx context.Context, before time.Time) (deleted int, err error) {
	h, c, err := j.newest(ctx)
	if err != nil {
		return 0, err
	}
	needed := []string{h.Commit}
	for _, r := range slices.Concat(c.Runs, c.Waits) {
		needed = append(needed, r.Object)
	}
	own := windowPrefix(h.Generation)
	for _, prefix := range [...]string{CommitPrefix, LedgerPrefix, WaitingPrefix, WindowPrefix} {
		for o, err := range j.blob.List(ctx, prefix, "") {
			if err != nil {
				return deleted, fmt.Errorf("list %s: %w", prefix, err)
			}
			if !o.Modified.Before(before) || slices.Contains(needed, o.Key) || strings.HasPrefix(o.Key, own) {
				continue
			}
			if err := j.blob.Delete(ctx, o.Key); err != nil {
				return deleted, fmt.Errorf("delete %q: %w", o.Key, err)
			}
			deleted++
		}
	}
	return deleted, nil
}

// versionID names a version of a model.
type versionID struct {
	model   string
	version int
}

func (v versionID) String() string { return fmt.Sprintf("%s:%d", v.model, v.version) }

// segmentID is what commits know a segment by, and until when its last prediction was answered.
func segmentID(key string) (id string, until int64, ok bool) {
	var micros, hash string
	name, found := strings.CutSuffix(strings.TrimPrefix(key, segments), ".parquet")
	if found {
		micros, hash, found = strings.Cut(name, "-")
	}
	until, err := strconv.ParseInt(micros, 10, 64)
	return hash[:min(len(hash), 16)], until, found && err == nil && len(hash) >= 16
}
