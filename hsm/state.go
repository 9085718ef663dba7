package hsm

// callState is the pool's bookkeeping inside a Call.
type callState struct{}
