-- Storage, on PostgreSQL only.
--
-- No update changes an indexed column. With room in its page it is a HOT
-- update: no index is written, and the next visit to the page clears the old
-- version away without a vacuum.
ALTER TABLE tapseal_record SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_analyze_scale_factor = 0.1
);
-- Counters also go away, which only a vacuum cleans up.
ALTER TABLE tapseal_counter SET (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.1
);
-- A few rows, changed with every commit: the page is left to their versions.
ALTER TABLE tapseal_instance SET (fillfactor = 50);
