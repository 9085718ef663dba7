package audit

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// recover finds the end of the journal, or begins one, and makes it the place
// where the next group goes.
func (j *Journal) recover() error {
	if err := removePartial(j.dir); err != nil {
		return err
	}
	numbers, err := listSegments(j.dir)
	if err != nil {
		return err
	}
	if len(numbers) == 0 {
		return j.begin()
	}
	return j.resume(numbers[len(numbers)-1])
}

// removePartial removes segments whose making was interrupted: they hold no
// group, because they are renamed before the first one is written.
func removePartial(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentSuffix+partialSuffix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("opening journal: %w", err)
		}
	}
	return nil
}

func (j *Journal) begin() error {
	if _, err := rand.Read(j.id[:]); err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	j.next, j.chain = 1, firstChain(j.id)
	segment, err := j.createSegment(1)
	if err != nil {
		return err
	}
	j.use(segment, 1, segmentHeaderBytes)
	return nil
}

// resume goes on at the end of the last segment. Earlier ones were complete
// before it was made; the offline reader checks them all.
func (j *Journal) resume(number uint64) error {
	name := segmentName(number)
	var st scanState
	r, size, err := openSegment(j.dir, name, number, &st)
	if err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	err = scanSegment(r, name, size, &st, func(groupHeader, []byte) error { return nil })
	var torn *TornTailError
	if err != nil && !errors.As(err, &torn) {
		return errors.Join(fmt.Errorf("opening journal: %w", err), r.Close())
	}
	if torn != nil {
		j.keepTorn(r, name, torn)
	}
	if err := r.Close(); err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(j.dir, name), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	j.id, j.next, j.chain = st.id, st.next, st.chain
	j.use(j.wrap(newOSFile(f)), number, st.end)
	if err := j.settle(f, &st); err != nil {
		return errors.Join(fmt.Errorf("opening journal: %w", err), f.Close())
	}
	if torn == nil {
		return nil
	}
	return j.recordRecovery(torn)
}

// settle cuts off everything after the last whole group and makes the rest
// durable. The last group is written again first: if the process before this
// one ended because a sync failed, its pages may be clean in memory and
// missing on the disk, and a sync alone would not write them.
func (j *Journal) settle(f *os.File, st *scanState) error {
	if st.lastGroup > 0 {
		last := make([]byte, st.end-st.lastGroup)
		if _, err := io.ReadFull(io.NewSectionReader(f, st.lastGroup, int64(len(last))), last); err != nil {
			return err
		}
		if _, err := j.segment.WriteAt(last, st.lastGroup); err != nil {
			return err
		}
	}
	if err := j.segment.Truncate(st.end); err != nil {
		return err
	}
	return j.segment.Datasync()
}

// keepTorn copies the bytes that are going to be cut off to a file beside the
// segment, for whoever wants to know what was lost. A disk that is too full
// for that does not stop the journal.
func (j *Journal) keepTorn(r io.ReaderAt, name string, torn *TornTailError) {
	j.opt.Log.Warn("audit journal: cutting off records that were never completely committed",
		"segment", name, "offset", torn.Offset, "bytes", torn.Bytes)
	path := filepath.Join(j.dir, fmt.Sprintf("%s%s%d", name, tornInfix, torn.Offset))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = io.Copy(f, io.NewSectionReader(r, torn.Offset, torn.Bytes))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		j.opt.Log.Warn("audit journal: what is cut off could not be kept", "error", err)
	}
}

// recordRecovery leaves a trace of the cut in the journal itself.
func (j *Journal) recordRecovery(torn *TornTailError) error {
	recs := []Record{{CutBytes: uint64(torn.Bytes)}}
	if err := j.take(KindRecovered, recs, func(error) {}); err != nil {
		return fmt.Errorf("opening journal: %w", err)
	}
	return nil
}
