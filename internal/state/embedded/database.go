package embedded

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// format is pinned: a newer one is a decision, because no older program can
	// read it.
	format = pebble.FormatValueSeparation
	// defaultMemTableBytes of changes are collected before they become a table.
	defaultMemTableBytes = 4 << 20
	// compactionTables wait in the first level before they are merged into the
	// next one. Eight instead of four halve what is rewritten at a million tokens;
	// a lookup passes their filters.
	compactionTables = 8
	// memTables may wait for the disk before commits wait.
	memTables = 4
	// tableBytes keeps the filter of one table, which is read as a whole, below
	// 64 KiB.
	tableBytes = 4 << 20
	// filterBits for each key: one lookup in a hundred is in vain.
	filterBits = 10
)

// tuned is for small records under random keys, read one by one and changed
// often.
func tuned(o Options, fs vfs.FS, m *medium, lock *pebble.Lock) *pebble.Options {
	p := &pebble.Options{
		FS: fs, Lock: lock, FormatMajorVersion: format,
		Logger: &logger{m}, EventListener: listener(m),
		// Pebble takes the memory of two tables in the making from the cache.
		CacheSize:    o.CacheBytes + 2*int64(o.memTableBytes),
		MemTableSize: o.memTableBytes, MemTableStopWritesThreshold: memTables,
		L0CompactionThreshold: compactionTables, L0StopWritesThreshold: 24,
		LBaseMaxBytes: 64 << 20, MaxOpenFiles: 1000,
		// One compaction at a time: commits need the processor more.
		CompactionConcurrencyRange: func() (lower, upper int) { return 1, 1 },
	}
	// Reading must not start compactions.
	p.Experimental.ReadSamplingMultiplier = -1
	for i := range p.TargetFileSizes {
		p.TargetFileSizes[i] = tableBytes
	}
	for i := range p.Levels {
		// Records are digests and bits: nothing to compress.
		p.Levels[i].Compression = func() *block.CompressionProfile { return block.NoCompression }
		p.Levels[i].BlockSize = 4 << 10
		// The last level holds nine tenths of all records, and what is looked up
		// there mostly exists: its filters would fill the cache for nothing.
		p.Levels[i].FilterPolicy = pebble.NoFilterPolicy
		if i < len(p.Levels)-1 {
			p.Levels[i].FilterPolicy = bloom.FilterPolicy(filterBits)
		}
	}
	return p
}

// openDatabase opens Pebble with errors that have no keys in them.
func openDatabase(dir string, p *pebble.Options) (*pebble.DB, error) {
	db, err := pebble.Open(dir, p)
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, pebble.ErrDBDoesNotExist):
		return nil, errNoState
	default:
		return nil, fmt.Errorf("opening the database: %w", clean(err))
	}
}

// logger takes Pebble's messages. None is passed on: they may have keys in them.
type logger struct{ medium *medium }

func (*logger) Infof(string, ...any) {}

func (*logger) Errorf(string, ...any) {}

// Fatalf is what Pebble calls where it cannot go on. It expects not to return.
func (l *logger) Fatalf(_ string, args ...any) {
	l.medium.poison("the database cannot go on", firstErrno(args))
	l.medium.halt()
}

func firstErrno(args []any) error {
	for _, a := range args {
		if err, ok := a.(error); ok {
			return clean(err)
		}
	}
	return nil
}

func listener(m *medium) *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) { m.poison("work in the background failed", clean(err)) },
		// Called while reading: the reader gets an error as well.
		DataCorruption: func(pebble.DataCorruptionInfo) { m.poison("reading the database", errCorrupt) },
	}
}
