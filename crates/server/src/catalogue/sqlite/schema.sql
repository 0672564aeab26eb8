-- Version 3. Ids and other 64-bit numbers are stored as the signed integers with the same bits.

-- Single values: `change`, `halted`, the number of the list of revoked nodes (`revocations`), and how many `nodes` there are, releases were `published`, and removals of chunks
-- (`sweeps`) there were.
CREATE TABLE settings (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('change', 1), ('halted', 0), ('nodes', 0), ('published', 0), ('sweeps', 0),
    ('revocations', 1);

-- Secrets of the fleet: keys of audiences (by name), and keys for datagrams (by epoch, and when they were made).
CREATE TABLE audience_keys (audience TEXT PRIMARY KEY, key BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE fleet_keys (epoch INTEGER PRIMARY KEY, key BLOB NOT NULL, made INTEGER NOT NULL DEFAULT 0);

-- `used`: when somebody last uploaded something in it, or was told that something in it is there.
CREATE TABLE packs (id INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE TABLE chunks (
    digest BLOB PRIMARY KEY, pack INTEGER NOT NULL, offset INTEGER NOT NULL, len INTEGER NOT NULL
) WITHOUT ROWID;
-- Files of several chunks that some release names.
CREATE TABLE files (digest BLOB PRIMARY KEY, size INTEGER NOT NULL, chunks BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE releases (
    configuration TEXT NOT NULL, release INTEGER NOT NULL, version TEXT, list BLOB NOT NULL, list_size INTEGER NOT NULL,
    files INTEGER NOT NULL, bytes INTEGER NOT NULL, published INTEGER NOT NULL,
    PRIMARY KEY (configuration, release)
) WITHOUT ROWID;
CREATE UNIQUE INDEX releases_by_version ON releases (configuration, version) WHERE version IS NOT NULL;

CREATE TABLE assignments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, configuration TEXT NOT NULL, release INTEGER, target TEXT NOT NULL UNIQUE,
    made INTEGER NOT NULL, waves TEXT NOT NULL, halted INTEGER NOT NULL
);

CREATE TABLE tokens (
    hash BLOB PRIMARY KEY, uses INTEGER NOT NULL, expires INTEGER NOT NULL, labels TEXT NOT NULL,
    -- Whether its nodes wait for an operator; the operator that it is for, if it is not for nodes.
    approval INTEGER NOT NULL DEFAULT 0, operator TEXT
) WITHOUT ROWID;

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL, token BLOB NOT NULL, labels TEXT NOT NULL, facts TEXT NOT NULL,
    hostname TEXT, addresses TEXT NOT NULL, version TEXT NOT NULL, joined INTEGER NOT NULL, seen INTEGER NOT NULL,
    -- What it is assigned: set in the transaction that is the cause.
    sequence INTEGER NOT NULL, configuration TEXT, release INTEGER, list BLOB, list_size INTEGER,
    -- From its events.
    progress TEXT NOT NULL, last_event INTEGER NOT NULL, event_bytes INTEGER NOT NULL DEFAULT 0,
    -- Whether it belongs to the fleet: 0 yes, 1 when an operator says so, 2 not any more; when and why that was decided;
    -- the node whose data directory it had; when its identity was last seen in two places.
    standing INTEGER NOT NULL DEFAULT 0, decided INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    replaces INTEGER, twice INTEGER
);
CREATE INDEX nodes_revoked ON nodes (decided) WHERE standing = 2;
CREATE UNIQUE INDEX nodes_by_key ON nodes (key, token);
CREATE INDEX nodes_by_hostname ON nodes (hostname);
-- Sites of nodes that have said where they are.
CREATE TABLE sites (site TEXT NOT NULL, node INTEGER NOT NULL, PRIMARY KEY (site, node)) WITHOUT ROWID;
CREATE INDEX sites_by_node ON sites (node);
-- How many nodes each site has, without counting them each time.
CREATE TABLE site_sizes (site TEXT PRIMARY KEY, nodes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER site_gains AFTER INSERT ON sites BEGIN
    INSERT INTO site_sizes VALUES (new.site, 1) ON CONFLICT (site) DO UPDATE SET nodes = nodes + 1;
END;
CREATE TRIGGER site_loses AFTER DELETE ON sites BEGIN
    UPDATE site_sizes SET nodes = nodes - 1 WHERE site = old.site;
    DELETE FROM site_sizes WHERE site = old.site AND nodes = 0;
END;

-- Operators: by name, with the digest of the key of their credential.
CREATE TABLE operators (
    name TEXT PRIMARY KEY, key BLOB NOT NULL, added INTEGER NOT NULL, removed INTEGER
) WITHOUT ROWID;
-- What operators did. Each entry holds the hash of the one before.
CREATE TABLE audit (number INTEGER PRIMARY KEY, entry TEXT NOT NULL, hash BLOB NOT NULL);

CREATE TABLE events (
    node INTEGER NOT NULL, number INTEGER NOT NULL, boot INTEGER NOT NULL, seq INTEGER NOT NULL, list BLOB,
    event TEXT NOT NULL, PRIMARY KEY (node, number)
) WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_seq ON events (node, boot, seq);
