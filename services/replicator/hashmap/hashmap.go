// Package hashmap compares two images of a volume by hashes, top down, so that only what differs has to be told and sent.
//
// A volume is cut into stretches of 16 MiB. A stretch's tree has a 128-bit xxh3 for each block of 4 KiB, and above that each
// node is the hash of its four children's: 16 KiB, 64 KiB, 256 KiB, 1 MiB, 4 MiB, and the root. One side walks down its own
// tree and asks the other for the sums of the nodes it is not sure of. A node whose sums are equal is equal; a node that is
// all zeroes at the other side needs no further question. A single block that differs costs 24 sums, 384 bytes, which is
// less than a tenth of sending it. Equality is decided by 128 bits, here and nowhere by less. The package is pure.
package hashmap

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/zeebo/xxh3"
)

const (
	// Block is what is told apart, in bytes.
	Block = 4096
	// Stretch is what one tree covers, in bytes.
	Stretch = 16 << 20

	fan = 4
	// SumSize is the size of one sum, in bytes.
	SumSize = 16
)

// ErrDamaged means that bytes from the other side are no answer to what was asked, or no question.
var ErrDamaged = errors.New("damaged hashes")

// Sum is a 128-bit hash.
type Sum [SumSize]byte

// Of is the sum of content.
func Of(b []byte) Sum { return xxh3.Hash128(b).Bytes() }

// Tree holds the sums of one stretch. It does not change.
type Tree struct{ levels [][]Sum } // levels[0] is the blocks', the last one is the root's

// Build hashes a stretch's content, of at least one byte; the last block may be short.
func Build(content []byte) *Tree {
	leaves := make([]Sum, 0, (len(content)+Block-1)/Block)
	for len(content) > 0 {
		n := min(Block, len(content))
		leaves = append(leaves, Of(content[:n]))
		content = content[n:]
	}
	t := &Tree{levels: [][]Sum{leaves}}
	for below := leaves; len(below) > 1; {
		level := make([]Sum, 0, (len(below)+fan-1)/fan)
		var buf [fan * SumSize]byte
		for i := 0; i < len(below); i += fan {
			b := buf[:0]
			for _, s := range below[i:min(i+fan, len(below))] {
				b = append(b, s[:]...)
			}
			level = append(level, Of(b))
		}
		t.levels, below = append(t.levels, level), level
	}
	return t
}

// Question asks for the sums of nodes at a level of the other side's tree, in rising order.
type Question struct {
	Level int
	Nodes []uint32
}

// Encode makes the question's wire form: the level, then the gaps between the nodes as varints.
func (q Question) Encode() []byte {
	b := []byte{byte(q.Level)}
	last := uint32(0)
	for _, n := range q.Nodes {
		b = binary.AppendUvarint(b, uint64(n-last))
		last = n
	}
	return b
}

// DecodeQuestion reads what Encode made. Anything else is ErrDamaged.
func DecodeQuestion(b []byte) (Question, error) {
	if len(b) == 0 {
		return Question{}, fmt.Errorf("%w: an empty question", ErrDamaged)
	}
	q, at := Question{Level: int(b[0])}, uint64(0)
	for b = b[1:]; len(b) > 0; {
		gap, n := binary.Uvarint(b)
		if n <= 0 || gap > Stretch/Block || at+gap >= Stretch/Block || len(q.Nodes) > 0 && gap == 0 {
			return q, fmt.Errorf("%w: node after %d", ErrDamaged, at)
		}
		at, b = at+gap, b[n:]
		q.Nodes = append(q.Nodes, uint32(at))
	}
	return q, nil
}

// Answer gives the sums asked for, one after the other.
func (t *Tree) Answer(q Question) ([]byte, error) {
	if q.Level < 0 || q.Level >= len(t.levels) {
		return nil, fmt.Errorf("%w: level %d of %d", ErrDamaged, q.Level, len(t.levels))
	}
	out := make([]byte, 0, len(q.Nodes)*SumSize)
	for _, n := range q.Nodes {
		if int(n) >= len(t.levels[q.Level]) {
			return nil, fmt.Errorf("%w: node %d of level %d", ErrDamaged, n, q.Level)
		}
		out = append(out, t.levels[q.Level][n][:]...)
	}
	return out, nil
}

// Walk is a comparison under way: ask Next, give its answer to Take, until Next has nothing more to ask.
type Walk struct {
	tree, zero *Tree // zero is that of as many zeroes
	level      int
	nodes      []uint32
	differ     []uint32
}

// Compare begins to compare a stretch with the other side's. zero is the tree of zeroes of the same length.
func Compare(tree, zero *Tree) *Walk {
	return &Walk{tree: tree, zero: zero, level: len(tree.levels) - 1, nodes: []uint32{0}}
}

// Next is the next question; false at the end.
func (w *Walk) Next() (Question, bool) {
	return Question{w.level, w.nodes}, len(w.nodes) > 0
}

// Take takes the answer to the last question.
func (w *Walk) Take(answer []byte) error {
	if len(answer) != len(w.nodes)*SumSize {
		return fmt.Errorf("%w: %d bytes for %d sums", ErrDamaged, len(answer), len(w.nodes))
	}
	var next []uint32
	for i, n := range w.nodes {
		theirs := Sum(answer[i*SumSize:])
		switch {
		case theirs == w.tree.levels[w.level][n]:
		case w.level == 0:
			w.differ = append(w.differ, n)
		case theirs == w.zero.levels[w.level][n]:
			w.notZero(w.level, n)
		default:
			for c := n * fan; c < min((n+1)*fan, uint32(len(w.tree.levels[w.level-1]))); c++ {
				next = append(next, c)
			}
		}
	}
	w.level, w.nodes = w.level-1, next
	return nil
}

// notZero adds the blocks below a node that hold something here: the other side has only zeroes there.
func (w *Walk) notZero(level int, node uint32) {
	first, last := node, node+1
	for range level {
		first, last = first*fan, last*fan
	}
	for b := first; b < min(last, uint32(len(w.tree.levels[0]))); b++ {
		if w.tree.levels[0][b] != w.zero.levels[0][b] {
			w.differ = append(w.differ, b)
		}
	}
}

// Differing lists the blocks that differ, in no order, once the walk has ended.
func (w *Walk) Differing() []uint32 { return w.differ }
