package audit

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// makeJournal writes n groups of one record each and gives the segment's
// bytes and the offset of the end of each group.
func makeJournal(t *testing.T, n int) (image []byte, ends []int64) {
	t.Helper()
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{SegmentBytes: 64 << 10})
	for i := range n {
		mustAppend(t, j, testRecord(i))
		ends = append(ends, j.offset)
	}
	mustClose(t, j)
	image, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(image)) != ends[n-1] {
		t.Fatalf("the closed segment has %d bytes, its groups end at %d", len(image), ends[n-1])
	}
	return image, ends
}

func placeImage(t *testing.T, image []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, segmentName(1)), image, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkTorn expects the first n records and a torn tail from the reader, and
// that the journal opens and goes on.
func checkTorn(t *testing.T, image []byte, n int) {
	t.Helper()
	dir := placeImage(t, image)
	recs, err := readAll(dir)
	var torn *TornTailError
	if len(recs) != n || !errors.As(err, &torn) {
		t.Fatalf("reader: %d records, error %v; want %d and a torn tail", len(recs), err, n)
	}
	checkGoesOn(t, dir, n, true)
}

func checkGoesOn(t *testing.T, dir string, n int, recovered bool) {
	t.Helper()
	j := mustOpen(t, dir, Options{SegmentBytes: 64 << 10})
	mustAppend(t, j, testRecord(n))
	mustClose(t, j)
	recs, err := readAll(dir)
	want := n + 1
	if recovered {
		want++
	}
	if err != nil || len(recs) != want || recs[len(recs)-1].RequestID != testRecord(n).RequestID {
		t.Fatalf("after recovery: %d records, error %v; want %d", len(recs), err, want)
	}
}

func TestTruncationAtEveryByteOfTheLastGroup(t *testing.T) {
	image, ends := makeJournal(t, 3)
	for cut := ends[1] + 1; cut < ends[2]; cut++ {
		checkTorn(t, image[:cut], 2)
	}
	dir := placeImage(t, image[:ends[1]])
	if recs, err := readAll(dir); len(recs) != 2 || err != nil {
		t.Errorf("cut between groups: %d records, error %v", len(recs), err)
	}
	checkGoesOn(t, dir, 2, false)
}

func TestTruncationBeforePreallocatedSpace(t *testing.T) {
	image, ends := makeJournal(t, 3)
	for cut := ends[1] + 1; cut < ends[2]; cut += 7 {
		torn := slices.Clone(image[:ends[2]])
		clear(torn[cut:])
		checkTorn(t, append(torn, make([]byte, 1<<16)...), 2)
	}
}

func TestAWriteThatMissesItsFirstPage(t *testing.T) {
	image, ends := makeJournal(t, 3)
	torn := slices.Clone(image)
	clear(torn[ends[1] : ends[1]+groupHeaderBytes])
	checkTorn(t, torn, 2)
}

// checkCorrupt expects a refusal by reader and journal alike, after at most n
// records, with nothing on the disk touched.
func checkCorrupt(t *testing.T, image []byte, n int) {
	t.Helper()
	dir := placeImage(t, image)
	recs, err := readAll(dir)
	var corrupt *CorruptError
	if len(recs) > n || !errors.As(err, &corrupt) {
		t.Fatalf("reader: %d records, error %v; want at most %d and corruption", len(recs), err, n)
	}
	if _, err := Open(dir, Options{}); !errors.As(err, &corrupt) {
		t.Fatalf("Open: %v, want corruption", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil || !slices.Equal(after, image) {
		t.Fatalf("Open touched a damaged journal (error %v)", err)
	}
}

func TestEveryFlippedBitIsSeen(t *testing.T) {
	image, ends := makeJournal(t, 4)
	for bit := range len(image) * 8 {
		flipped := slices.Clone(image)
		flipped[bit/8] ^= 1 << (bit % 8)
		switch at := int64(bit / 8); {
		case at < ends[2]:
			n, _ := slices.BinarySearch(ends, at+1)
			checkReaderRefuses(t, flipped, n)
		default: // the last group: not to be told from a torn write
			dir := placeImage(t, flipped)
			var torn *TornTailError
			if recs, err := readAll(dir); len(recs) != 3 || !errors.As(err, &torn) {
				t.Fatalf("bit %d of the last group: %d records, error %v", bit, len(recs), err)
			}
		}
	}
	for _, at := range []int64{3, 12, 30, 45, segmentHeaderBytes + 2, ends[0] - 1, ends[1] + 1, ends[1] + groupHeaderBytes + 9} {
		flipped := slices.Clone(image)
		flipped[at] ^= 0x10
		checkCorrupt(t, flipped, 2)
	}
}

func checkReaderRefuses(t *testing.T, image []byte, n int) {
	t.Helper()
	recs, err := readAll(placeImage(t, image))
	var corrupt *CorruptError
	if len(recs) > n || !errors.As(err, &corrupt) {
		t.Fatalf("reader: %d records, error %v; want at most %d and corruption", len(recs), err, n)
	}
}

func TestARemovedOrRepeatedGroupIsSeen(t *testing.T) {
	image, ends := makeJournal(t, 4)
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	header, first := image[:segmentHeaderBytes], image[segmentHeaderBytes:ends[0]]
	second, third, fourth := image[ends[0]:ends[1]], image[ends[1]:ends[2]], image[ends[2]:]
	for name, damaged := range map[string][]byte{
		"first removed":       join(header, second, third, fourth),
		"middle removed":      join(header, first, third, fourth),
		"repeated":            join(header, first, second, second, third, fourth),
		"last repeated":       join(image, fourth),
		"swapped":             join(header, first, third, second, fourth),
		"zeroed":              join(header, first, make([]byte, len(second)), third, fourth),
		"blanked to the last": join(header, make([]byte, len(first)+len(second)+len(third)), fourth),
	} {
		t.Run(name, func(t *testing.T) { checkCorrupt(t, damaged, 4) })
	}
}

// TestARewrittenGroupIsSeen edits a record and repairs every checksum, as
// somebody who knows the format would: the chain of the next group tells.
func TestARewrittenGroupIsSeen(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{SegmentBytes: 64 << 10})
	for i := range 3 {
		mustAppend(t, j, testRecord(i))
	}
	chain, id := firstChain(j.id), j.id
	mustClose(t, j)
	path := filepath.Join(dir, segmentName(1))
	image, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	forged := testRecord(0)
	forged.Kind, forged.Verdict = KindDecision, 2
	group, err := appendRecord(make([]byte, groupHeaderBytes), &forged)
	if err != nil {
		t.Fatal(err)
	}
	sealGroup(group, 1, 1, &chain, j.hasher)
	if id == (journalID{}) {
		t.Fatal("the journal has no id")
	}
	copy(image[segmentHeaderBytes:], group)
	checkCorrupt(t, image, 1)
}

func TestMissingSegmentsAreSeen(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{SegmentBytes: minSegmentBytes})
	for i := range 400 {
		mustAppend(t, j, testRecord(i))
	}
	mustClose(t, j)
	numbers, err := listSegments(dir)
	if err != nil || len(numbers) < 4 {
		t.Fatalf("%d segments, error %v", len(numbers), err)
	}
	var corrupt *CorruptError
	hide := func(n uint64) (show func()) {
		path := filepath.Join(dir, segmentName(n))
		if err := os.Rename(path, path+".hidden"); err != nil {
			t.Fatal(err)
		}
		return func() { _ = os.Rename(path+".hidden", path) }
	}
	show := hide(2)
	if recs, err := readAll(dir); !errors.As(err, &corrupt) || len(recs) == 0 {
		t.Errorf("middle segment missing: %d records, error %v", len(recs), err)
	}
	show()
	show = hide(1)
	if _, err := readAll(dir); !errors.As(err, &corrupt) {
		t.Errorf("first segment missing: error %v", err)
	}
	later := 0
	for r, err := range ReadDir(dir) {
		if err == nil && r.Sequence > 0 {
			later++
		}
	}
	show()
	if later == 0 || later >= 400 {
		t.Errorf("with the first segment archived %d records can be read", later)
	}
	if recs, err := readAll(dir); err != nil || len(recs) != 400 {
		t.Errorf("all back: %d records, error %v", len(recs), err)
	}
}

func TestASegmentOfAnotherJournalDoesNotFit(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	for _, dir := range []string{ours, theirs} {
		j := mustOpen(t, dir, Options{SegmentBytes: minSegmentBytes})
		for i := range 300 {
			mustAppend(t, j, testRecord(i))
		}
		mustClose(t, j)
	}
	b, err := os.ReadFile(filepath.Join(theirs, segmentName(2)))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(ours, segmentName(2)), b, 0o600); err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := readAll(ours); !errors.As(err, &corrupt) {
		t.Errorf("reader: %v, want corruption", err)
	}
}

func TestAnInterruptedSegmentChangeIsCleared(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir, Options{SegmentBytes: 64 << 10})
	mustAppend(t, j, testRecord(0))
	mustClose(t, j)
	partial := filepath.Join(dir, segmentName(2)+partialSuffix)
	if err := os.WriteFile(partial, []byte("half a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	mustClose(t, mustOpen(t, dir, Options{SegmentBytes: 64 << 10}))
	if _, err := os.Stat(partial); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the partial segment is still there: %v", err)
	}
	checkSequence(t, dir, 1)
}

// FuzzReader feeds damaged segments to the reader: it must end without a
// panic, and never give a record that was not written.
func FuzzReader(f *testing.F) {
	dir := f.TempDir()
	j := mustOpen(f, dir, Options{})
	for i := range 3 {
		mustAppend(f, j, testRecord(i))
	}
	mustClose(f, j)
	image, err := os.ReadFile(filepath.Join(dir, segmentName(1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(10), []byte("x"), uint16(3))
	f.Add(uint16(150), []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, at uint16, replace []byte, drop uint16) {
		start := int(at) % len(image)
		end := min(start+int(drop), len(image))
		recs, _ := readAll(placeImage(t, slices.Concat(image[:start], replace, image[end:])))
		for i, r := range recs {
			if r.RequestID != testRecord(i).RequestID {
				t.Fatalf("record %d was never written", i)
			}
		}
	})
}
