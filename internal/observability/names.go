// Package observability has the daemon's metrics, their HTTP listener and its
// log. No metric, label or log line holds a PAN, cryptogram, key, request id
// or anything else that a caller can choose.
package observability

// A Metric documents one metric of the daemon.
type Metric struct {
	Name   string
	Type   string // counter, gauge or histogram
	Labels []string
	Help   string // with unit
}

// Names of the metrics. They are an interface: dashboards and alerts use them.
const (
	nameVerifications   = "tapseal_verifications_total"
	nameDuration        = "tapseal_verification_duration_seconds"
	nameRefused         = "tapseal_requests_refused_total"
	nameLimited         = "tapseal_caller_limited_total"
	namePolicies        = "tapseal_policy_loads_total"
	namePlaces          = "tapseal_taps_in_flight_limit"
	nameCertificateEnds = "tapseal_certificate_expiry_timestamp_seconds"
	nameLate            = "tapseal_late_answers_total"
	namePanics          = "tapseal_handler_panics_total"
	nameStreams         = "tapseal_streams_open"
	nameStreamMessages  = "tapseal_stream_messages_total"
	nameStreamTaps      = "tapseal_stream_taps_total"
	nameInFlight        = "tapseal_taps_in_flight"
	nameServing         = "tapseal_serving"
	nameBuild           = "tapseal_build_info"
	nameHSMConnections  = "tapseal_hsm_connections"
	nameHSMInFlight     = "tapseal_hsm_calls_in_flight"
	nameHSMWaiting      = "tapseal_hsm_calls_waiting"
	nameHSMAnswers      = "tapseal_hsm_answers_total"
	nameHSMRetries      = "tapseal_hsm_retries_total"
	nameHSMLate         = "tapseal_hsm_late_replies_total"
	nameHSMConnects     = "tapseal_hsm_connects_total"
	nameHSMConnectFails = "tapseal_hsm_handshake_failures_total"
	nameHSMLost         = "tapseal_hsm_connections_lost_total"
	nameHSMGoAways      = "tapseal_hsm_goaways_total"
	nameCommitDuration  = "tapseal_journal_commit_duration_seconds"
	nameCommitRecords   = "tapseal_journal_commit_records"
	nameJournalRecords  = "tapseal_journal_records_total"
	nameJournalRefused  = "tapseal_journal_records_refused_total"
	nameJournalFailed   = "tapseal_journal_commits_failed_total"
	nameJournalPending  = "tapseal_journal_records_pending"
	nameStateDuration   = "tapseal_state_batch_duration_seconds"
	nameStateOps        = "tapseal_state_batch_operations"
	nameStateConflicts  = "tapseal_state_conflicts_total"
	nameStateFailed     = "tapseal_state_operations_failed_total"
	nameStateReachable  = "tapseal_state_reachable"
)

// Documented lists the metrics of the daemon, beside those of the Go runtime and the process.
func Documented() []Metric {
	return []Metric{
		{nameVerifications, "counter", []string{"profile", "verdict", "reason"}, "Decisions, by their most important reason; beside VALID, what the policy let pass, if anything."},
		{nameDuration, "histogram", nil, "Seconds from the parsed request to the recorded decision."},
		{nameRefused, "counter", []string{"code"}, "Requests and taps without a decision, by gRPC status code."},
		{nameLimited, "counter", []string{"limit"}, "Taps and streams that a caller's own limit refused."},
		{namePolicies, "counter", []string{"result"}, "Attempts to put a policy in force, the one at the start included."},
		{namePlaces, "gauge", nil, "Taps that the service takes at one time now; falls when the HSM is slower than taps come."},
		{nameCertificateEnds, "gauge", nil, "When the service's own certificate ends, Unix seconds."},
		{nameLate, "counter", nil, "Taps answered UNKNOWN because HSM or journal were late; their records may follow."},
		{namePanics, "counter", nil, "Handlers that panicked."},
		{nameStreams, "gauge", nil, "Open VerifyCryptograms streams."},
		{nameStreamMessages, "counter", nil, "Request messages received on streams."},
		{nameStreamTaps, "counter", nil, "Taps received on streams."},
		{nameInFlight, "gauge", nil, "Taps between request and recorded decision."},
		{nameServing, "gauge", nil, "1 while the health service says SERVING, else 0."},
		{nameBuild, "gauge", []string{"version", "go"}, "Always 1."},
		{nameHSMConnections, "gauge", nil, "Usable connections to workers."},
		{nameHSMInFlight, "gauge", nil, "Calls in the pool, waiting ones included."},
		{nameHSMWaiting, "gauge", nil, "Calls that wait for a worker."},
		{nameHSMAnswers, "counter", []string{"answer"}, "Calls finished by the pool."},
		{nameHSMRetries, "counter", nil, "Calls put on a second worker."},
		{nameHSMLate, "counter", nil, "Replies to calls that were over."},
		{nameHSMConnects, "counter", nil, "Handshakes completed with workers."},
		{nameHSMConnectFails, "counter", nil, "Connection attempts that did not get as far as that."},
		{nameHSMLost, "counter", nil, "Connections that a worker ended without warning."},
		{nameHSMGoAways, "counter", nil, "Connections that a worker ended with notice, as in recycling."},
		{nameCommitDuration, "histogram", nil, "Seconds of write and sync of one journal commit."},
		{nameCommitRecords, "histogram", nil, "Records in one journal commit."},
		{nameJournalRecords, "counter", nil, "Records made durable."},
		{nameJournalRefused, "counter", nil, "Records that the journal could not take."},
		{nameJournalFailed, "counter", nil, "Commits that could not be made durable."},
		{nameJournalPending, "gauge", nil, "Records waiting for the next commit."},
		{nameStateDuration, "histogram", nil, "Seconds from a batch's first read of token states to its durable write."},
		{nameStateOps, "histogram", nil, "Taps decided in one batch."},
		{nameStateConflicts, "counter", nil, "Taps decided again because another instance was faster."},
		{nameStateFailed, "counter", nil, "Taps whose token's state could not be read or written."},
		{nameStateReachable, "gauge", nil, "1 while the state of tokens answers, else 0."},
	}
}

// help is the documentation of one metric.
func help(name string) string {
	for _, m := range Documented() {
		if m.Name == name {
			return m.Help
		}
	}
	return ""
}
