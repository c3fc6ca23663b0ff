package queue

// trust is whether a model answers a row alike in any company.
type trust struct {
	joined int // runs of joined requests
	lost   bool
}

const (
	// The first joined runs are all checked, and later one in checkOften: a model may
	// mix rows for some inputs only.
	checkFirst = 3
	checkOften = 10_000
)

// checks counts a joined run and tells whether it is one to be checked.
func (l *Lane) checks() bool {
	l.queue.mu.Lock()
	defer l.queue.mu.Unlock()
	l.trust.joined++
	return l.trust.joined <= checkFirst || l.trust.joined%checkOften == 0
}

// distrust ends joining for the lane's model.
func (l *Lane) distrust(why string) {
	l.queue.mu.Lock()
	lost := l.trust.lost
	l.trust.lost = true
	l.queue.mu.Unlock()
	if !lost {
		l.queue.log.Warn("requests for a model are not joined any more", "model", l.name, "why", why)
	}
}
