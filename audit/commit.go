package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// run is the journal's goroutine: it takes everything that is waiting, makes
// it durable with one write and one sync, and answers. What comes in during
// the sync is the next group, so groups grow with the load by themselves.
func (j *Journal) run() {
	defer close(j.stopped)
	for {
		g := j.takeGroup()
		if g == nil {
			return
		}
		err := j.commit(g)
		for _, done := range g.done {
			done(err)
		}
		g.reset()
	}
}

// takeGroup waits for records. nil means that the journal was closed and
// nothing is left.
func (j *Journal) takeGroup() *group {
	for {
		j.mu.Lock()
		if len(j.filling.done) > 0 {
			if wait := j.pause(); wait > 0 {
				j.mu.Unlock()
				time.Sleep(wait)
				j.mu.Lock()
			}
			g := j.filling
			j.filling, j.resting = j.resting, g
			j.mu.Unlock()
			return g
		}
		closed := j.closed
		j.mu.Unlock()
		if closed {
			return nil
		}
		<-j.wake
	}
}

// pause is how long to let records gather. Under load syncs cost more CPU
// than their records; for one caller who waits for each answer they do not
// matter and waiting would.
func (j *Journal) pause() time.Duration {
	if j.closed || !j.busy {
		return 0
	}
	return j.opt.CommitInterval - time.Since(j.began)
}

func (j *Journal) commit(g *group) error {
	if g.records == 0 {
		return nil
	}
	start := time.Now()
	j.began, j.busy = start, len(g.done) > 1
	if err := j.write(g); err != nil {
		j.reportFailure(g, err)
		return err
	}
	j.failing = false
	took := time.Since(start)
	c := &j.stats
	c.commits.Add(1)
	c.records.Add(uint64(g.records))
	c.bytes.Add(uint64(len(g.buf)))
	c.committing.Add(int64(took))
	c.longest.Store(max(c.longest.Load(), int64(took)))
	c.sequence.Store(j.next - 1)
	j.followers.wake()
	if j.opt.OnCommit != nil {
		j.opt.OnCommit(int(g.records), took)
	}
	return nil
}

// reportFailure logs the first failure of a row of them: on a full disk there
// are as many as requests.
func (j *Journal) reportFailure(g *group, err error) {
	j.stats.failed.Add(1)
	if !j.failing {
		j.opt.Log.Error("audit records cannot be made durable", "records", g.records, "error", err)
	}
	j.failing = true
}

// write makes one group durable. A write that fails is undone and the next
// group may succeed; a sync that fails never becomes good again, because the
// kernel may have dropped the dirty pages and would report success next time.
func (j *Journal) write(g *group) error {
	if err := j.poisoned(); err != nil {
		return err
	}
	if err := j.makeRoom(int64(len(g.buf))); err != nil {
		return err
	}
	chain := sealGroup(g.buf, g.records, j.next, &j.chain, j.hasher)
	if _, err := j.segment.WriteAt(g.buf, j.offset); err != nil {
		return j.cutBack(fmt.Errorf("writing audit records: %w", err))
	}
	if err := j.segment.Datasync(); err != nil {
		return j.poison(fmt.Errorf("making audit records durable: %w", err))
	}
	j.offset += int64(len(g.buf))
	j.next += uint64(g.records)
	j.chain = chain
	return nil
}

// cutBack removes what a failed write left behind. Zeros must follow the last
// group, or the remains of a longer group could follow a shorter one.
func (j *Journal) cutBack(cause error) error {
	if err := j.segment.Truncate(j.offset); err != nil {
		return j.poison(errors.Join(cause, fmt.Errorf("undoing a failed write: %w", err)))
	}
	j.reserved = j.offset
	return cause
}

// poison ends the journal's life. It returns the error that all get from now on.
func (j *Journal) poison(cause error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.refused, ErrPoisoned) {
		return j.refused
	}
	j.refused = fmt.Errorf("%w: %w", ErrPoisoned, cause)
	j.failed <- j.refused
	close(j.failed)
	return j.refused
}

// poisoned returns that error, or nil.
func (j *Journal) poisoned() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if errors.Is(j.refused, ErrPoisoned) {
		return j.refused
	}
	return nil
}

// zeroBytes is how far ahead of the data zeros are written.
const zeroBytes = 256 << 10

// makeRoom makes sure that the segment can take size bytes more.
func (j *Journal) makeRoom(size int64) error {
	if j.offset+size > j.opt.SegmentBytes && j.offset > segmentHeaderBytes {
		if err := j.nextSegment(); err != nil {
			return err
		}
	}
	if j.offset+size > j.reserved {
		if err := j.reserve(); err != nil {
			return err
		}
	}
	for j.zeroed < min(j.offset+size, j.opt.SegmentBytes) {
		chunk := j.zeros[:min(zeroBytes, j.opt.SegmentBytes-j.zeroed)]
		if _, err := j.segment.WriteAt(chunk, j.zeroed); err != nil {
			return j.cutBack(fmt.Errorf("writing audit records: %w", err))
		}
		j.zeroed += int64(len(chunk))
	}
	return nil
}

// reserve allocates the rest of the segment, so that a full disk shows early
// and the file lies in one piece. Where that is not possible the write itself
// decides, without zeros ahead of it, and the rest of the segment is not tried
// again.
//
// Zeros are written over the allocated part a little ahead of the data:
// otherwise each sync would also have to write in the file system's own
// journal that a part of the file now has content, which doubles its time and
// CPU on ext4.
func (j *Journal) reserve() error {
	j.reserved, j.zeroed = j.opt.SegmentBytes, j.offset
	if err := j.segment.Allocate(j.offset, j.opt.SegmentBytes-j.offset); err == nil {
		return nil
	}
	j.zeroed = j.opt.SegmentBytes
	// A failed allocation may have extended the file.
	if err := j.segment.Truncate(j.offset); err != nil {
		return j.poison(fmt.Errorf("undoing a failed allocation: %w", err))
	}
	return nil
}

// nextSegment goes on in a new file. If that fails for want of space the old
// segment stays and the next group tries again.
func (j *Journal) nextSegment() error {
	segment, err := j.createSegment(j.number + 1)
	if err != nil {
		return err
	}
	if err := j.sealSegment(); err != nil {
		return errors.Join(j.poison(err), segment.Close())
	}
	j.use(segment, j.number+1, segmentHeaderBytes)
	return nil
}

func (j *Journal) use(segment segmentFile, number uint64, offset int64) {
	j.segment, j.number, j.offset = segment, number, offset
	j.reserved, j.zeroed = offset, offset
	j.stats.segment.Store(number)
	j.stats.sequence.Store(j.next - 1)
}

// createSegment makes a segment under a temporary name and renames it when
// its header is durable: a segment that can be seen has a whole header.
func (j *Journal) createSegment(number uint64) (segmentFile, error) {
	path := filepath.Join(j.dir, segmentName(number))
	partial := path + partialSuffix
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating journal segment: %w", err)
	}
	segment := j.wrap(newOSFile(f))
	h := segmentHeader{id: j.id, number: number, first: j.next, chain: j.chain}
	if _, err := segment.WriteAt(h.encode(), 0); err != nil {
		err = fmt.Errorf("creating journal segment: %w", err)
		return nil, errors.Join(err, segment.Close(), os.Remove(partial))
	}
	if err := segment.Datasync(); err != nil {
		return nil, errors.Join(j.poison(fmt.Errorf("creating journal segment: %w", err)), segment.Close())
	}
	if err := os.Rename(partial, path); err != nil {
		return nil, errors.Join(fmt.Errorf("creating journal segment: %w", err), segment.Close())
	}
	if err := syncDir(j.dir); err != nil {
		return nil, errors.Join(j.poison(fmt.Errorf("creating journal segment: %w", err)), segment.Close())
	}
	return segment, nil
}

func (j *Journal) wrap(f segmentFile) segmentFile {
	if j.opt.wrap != nil {
		return j.opt.wrap(f)
	}
	return f
}

// sealSegment gives back unused space and closes the file. All groups in it
// are durable already, so space that cannot be given back is no loss.
func (j *Journal) sealSegment() error {
	if err := j.poisoned(); err != nil {
		return errors.Join(err, j.segment.Close())
	}
	err := j.segment.Truncate(j.offset)
	if err == nil {
		err = j.segment.Datasync()
	}
	if err = errors.Join(err, j.segment.Close()); err != nil && !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("closing journal segment: %w", err)
	}
	return nil
}
