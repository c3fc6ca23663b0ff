package store

// Stamp orders the rows of one key: by event time and, where that is equal, by
// created time, both in microseconds since 1970.
type Stamp struct{ Event, Created int64 }
