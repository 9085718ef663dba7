-- Keys are uuid because that is 16 bytes without a length in all three
-- databases; they are keyed hashes, spread evenly.

CREATE TABLE tapseal_record (
    key     uuid   NOT NULL PRIMARY KEY,
    version bigint NOT NULL,
    record  bytea  NOT NULL
);

-- expires has no index: it would make every count a write to that index too.
-- Expired rows are found by walking the primary key.
CREATE TABLE tapseal_counter (
    key     uuid   NOT NULL PRIMARY KEY,
    n       bigint NOT NULL,
    expires bigint NOT NULL -- Unix time in seconds
);

CREATE TABLE tapseal_control (
    id       smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch    bigint   NOT NULL,
    document bytea    NOT NULL
);

-- One row for each daemon. epoch repeats that of tapseal_control, so that a
-- commit has to look at no row that other daemons lock.
CREATE TABLE tapseal_instance (
    instance uuid   NOT NULL PRIMARY KEY,
    sequence bigint NOT NULL,
    holder   uuid   NOT NULL,
    epoch    bigint NOT NULL
);

INSERT INTO tapseal_control (id, epoch, document) VALUES (1, 0, '');
