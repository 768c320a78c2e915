package hashmap

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

func walk(t *testing.T, ours, theirs []byte) (differ []uint32, answered int) {
	t.Helper()
	other := Build(theirs)
	w := Compare(Build(ours), Build(make([]byte, len(ours))))
	for {
		q, more := w.Next()
		if !more {
			break
		}
		asked, err := DecodeQuestion(q.Encode())
		if err != nil || asked.Level != q.Level || !slices.Equal(asked.Nodes, q.Nodes) {
			t.Fatalf("%+v was asked as %+v, %v", q, asked, err)
		}
		a, err := other.Answer(asked)
		if err != nil {
			t.Fatal(err)
		}
		answered += len(a)
		if err := w.Take(a); err != nil {
			t.Fatal(err)
		}
	}
	differ = slices.Clone(w.Differing())
	slices.Sort(differ)
	return differ, answered
}

func TestExactlyTheBlocksThatDifferAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{512, Block, Block + 512, 5 * Block, 1 << 20, 3<<20 + 512} {
		for _, share := range []float64{0, 0.01, 0.3, 1} {
			ours := make([]byte, size)
			for i := range ours {
				if i/Block%3 > 0 { // every third block is zero
					ours[i] = byte(r.Uint32())
				}
			}
			theirs := bytes.Clone(ours)
			var want []uint32
			for b := 0; b*Block < size; b++ {
				if r.Float64() >= share {
					continue
				}
				if b%2 == 0 {
					clear(theirs[b*Block : min((b+1)*Block, size)])
				} else {
					theirs[min((b+1)*Block, size)-1] ^= 1
				}
				if !bytes.Equal(ours[b*Block:min((b+1)*Block, size)], theirs[b*Block:min((b+1)*Block, size)]) {
					want = append(want, uint32(b))
				}
			}
			if got, _ := walk(t, ours, theirs); !slices.Equal(got, want) {
				t.Errorf("size %d, share %.2f: %v, want %v", size, share, got, want)
			}
			if got, _ := walk(t, ours, make([]byte, size)); share == 0 && len(got) != nonZero(ours) {
				t.Errorf("size %d against zeroes: %d blocks, want %d", size, len(got), nonZero(ours))
			}
		}
	}
}

func nonZero(b []byte) (n int) {
	for i := 0; i < len(b); i += Block {
		if len(bytes.Trim(b[i:min(i+Block, len(b))], "\x00")) > 0 {
			n++
		}
	}
	return n
}

func TestABlockThatDiffersCostsLessThanATenthOfItself(t *testing.T) {
	ours := bytes.Repeat([]byte{7}, Stretch)
	theirs := bytes.Clone(ours)
	const n = 16
	for i := range n { // as scattered as can be
		theirs[i*(Stretch/n)+777] ^= 1
	}
	got, answered := walk(t, ours, theirs)
	if len(got) != n || answered*10 > n*Block {
		t.Fatalf("%d blocks, %d bytes of sums for %d bytes that differ", len(got), answered, n*Block)
	}
	if got, answered := walk(t, ours, ours); len(got) != 0 || answered != SumSize {
		t.Fatalf("equal stretches: %d blocks, %d bytes of sums", len(got), answered)
	}
}

func FuzzDecodeQuestion(f *testing.F) {
	f.Add(Question{Level: 3, Nodes: []uint32{0, 5, 63}}.Encode())
	f.Add([]byte{0, 0xff, 0xff, 0xff})
	tree := Build(make([]byte, 1<<20))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := DecodeQuestion(b)
		if err != nil {
			return
		}
		if len(q.Nodes) > Stretch/Block {
			t.Fatalf("%d nodes", len(q.Nodes))
		}
		if _, err := tree.Answer(q); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}

// FuzzAnswer: whatever the other side answers, a walk never panics, asks for no more than its level has, ends after as many questions
// as the tree has levels, and names blocks of the stretch, each once.
func FuzzAnswer(f *testing.F) {
	ours, theirs := make([]byte, 70*Block), make([]byte, 70*Block)
	for i := range ours {
		ours[i] = byte(i / Block)
	}
	copy(theirs, ours)
	theirs[69*Block] ^= 1
	tree, other, zero := Build(ours), Build(theirs), Build(make([]byte, len(ours)))
	var answers, zeroes []byte
	w := Compare(tree, zero)
	for q, more := w.Next(); more; q, more = w.Next() {
		a, err := other.Answer(q)
		if err != nil || w.Take(a) != nil {
			f.Fatal(err)
		}
		answers = append(answers, a...)
	}
	for _, level := range zero.levels {
		zeroes = append(zeroes, level[0][:]...)
	}
	f.Add(answers)
	f.Add(zeroes)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		w := Compare(tree, zero)
		for range tree.levels {
			q, more := w.Next()
			if !more {
				break
			}
			if len(q.Nodes) > len(tree.levels[q.Level]) {
				t.Fatalf("%d nodes of a level of %d", len(q.Nodes), len(tree.levels[q.Level]))
			}
			n := min(len(b), len(q.Nodes)*SumSize)
			answer := b[:n]
			if b = b[n:]; n < len(q.Nodes)*SumSize {
				if err := w.Take(answer); !errors.Is(err, ErrDamaged) {
					t.Fatalf("an answer that is too short: %v", err)
				}
				return
			}
			if err := w.Take(answer); err != nil {
				t.Fatal(err)
			}
		}
		if _, more := w.Next(); more {
			t.Fatal("a walk goes on below the blocks")
		}
		seen := map[uint32]bool{}
		for _, n := range w.Differing() {
			if seen[n] || int(n) >= len(tree.levels[0]) {
				t.Fatalf("block %d, of %d", n, len(tree.levels[0]))
			}
			seen[n] = true
		}
	})
}
