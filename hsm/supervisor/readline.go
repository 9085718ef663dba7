package supervisor

import (
	"bufio"
	"errors"
	"io"
)

// readLine reads one bounded line.
func readLine(r io.Reader) ([]byte, error) {
	b := bufio.NewScanner(r)
	b.Buffer(nil, maxAnswerBytes)
	if b.Scan() {
		return b.Bytes(), nil
	}
	if err := b.Err(); err != nil {
		return nil, err
	}
	return nil, errors.New("the supervisor closed the connection")
}
